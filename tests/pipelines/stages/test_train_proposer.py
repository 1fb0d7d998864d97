"""train-proposer writes a proposer that precompute can use, and knows which images it saw."""

import json
import re
from pathlib import Path

import pytest

from mail.data.coco import CocoInstances
from mail.data.origins import NOTHING, UNKNOWN, Origin
from mail.data.scenes.layout import write_published_layout
from mail.errors import UserError
from mail.leakage import check_leakage
from mail.proposers import load_proposer
from mail.proposers.folder import ProposerFolder
from mail.proposers.training import InstanceImages
from mail.proposers.training_images import evaluation_images
from mail.training.checkpoint import find_latest
from pipelines.stages.train_proposer import TrainProposer
from pipelines.training.proposer import begin
from pipelines.training.proposer_plan import plan_training, seen_before
from tests.mail.test_leakage import photos_store, picture, saved
from tests.pipelines.killing import Run, wait_for


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_published_layout(root, 30, seed=5)
    return root


def stage(root: Path, out: Path, **changes: object) -> TrainProposer:
    values = {
        "instances": str(root / "synthetic/instances.json"),
        "images": str(root / "images/train2014"),
        "out": str(out),
        "steps": 2,
        "batch_size": 2,
        "workers": 0,
        "exclude_eval_of": "synthetic",
        "refs_root": str(root),
        "namespace": "synthetic/0",
        "holdout_fraction": 0.2,
    }
    return TrainProposer(**(values | changes))


def test_a_trained_proposer_works_and_never_saw_evaluation_images(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = stage(root, tmp_path / "p").run()
    proposer = load_proposer(str(tmp_path / "p"))
    assert proposer.proposer_id == report["proposer_id"]
    folder = ProposerFolder.read(tmp_path / "p")
    assert folder.origin.images["pixels"].null_count == 0
    seen = set(folder.origin.image_ids)
    assert seen
    assert not seen & set.union(*evaluation_images(str(root), ["synthetic"], "synthetic/0").values())
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "images.json",
        "model.safetensors",
        "proposer.json",
    ]
    assert f"wrote {tmp_path / 'p'}" in capsys.readouterr().out
    again = stage(root, tmp_path / "p", workers=0).run()
    assert {**again, "seconds": 0} == {**report, "seconds": 0}
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'p'} is finished: {proposer.proposer_id}, recall@.5 ")
    with pytest.raises(UserError, match="already holds a proposer"):
        stage(root, tmp_path / "p", seed=1).run()


def test_a_proposer_saw_what_its_first_weights_saw(root: Path, tmp_path: Path) -> None:
    """Clean images make no clean proposer of a detector that saw COCO, or of one of which nobody knows."""
    stage(root, tmp_path / "first").run()
    weights = str(tmp_path / "first/model.safetensors")
    (tmp_path / "w.safetensors").write_bytes(Path(weights).read_bytes())
    nobodys = str(tmp_path / "w.safetensors")

    def seen(**given: object) -> Origin:
        return seen_before(stage(root, tmp_path / "p", **given), "synthetic/0")

    assert seen(weights=weights) == ProposerFolder.read(tmp_path / "first").origin
    assert seen(weights=nobodys) == UNKNOWN
    assert seen(weights=nobodys, weights_images="none") == seen() == NOTHING
    stage(root, tmp_path / "detector", weights=nobodys, weights_images="coco/train2017").run()
    detector = ProposerFolder.read(tmp_path / "detector").origin
    assert detector == ProposerFolder.read(tmp_path / "first").origin | Origin.of((), ["coco/train2017"])
    evaluated = photos_store(tmp_path, "refcoco", {"coco/9": ("val", saved(picture(1)))})
    with pytest.raises(UserError, match=r"1 of 1 of val \(first: coco/9\); it saw coco/train2017"):
        check_leakage(detector, evaluated)
    assert not check_leakage(ProposerFolder.read(tmp_path / "first").origin, evaluated).leaky


def test_photos_that_are_evaluated_on_under_another_name_are_left_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stage(root, tmp_path / "all", exclude_eval_of="", refs_root=None)
    job, chosen, _ = plan_training(first)
    photos = InstanceImages(CocoInstances(first.instances), first.images)
    store = photos_store(tmp_path, "own", {"own/1": ("val", photos.read(chosen.train[3])[0])})
    stage(root, tmp_path / "p", exclude_eval_of="", refs_root=None, exclude_store=store.uri).run()
    folder = ProposerFolder.read(tmp_path / "p")
    assert len(folder.origin.image_ids) == len(job.train) - 1
    assert chosen.seen[3] not in folder.origin.image_ids
    assert "excluded: 1 images of own val (by content)" in capsys.readouterr().err
    assert not check_leakage(folder.origin, store).leaky


def test_the_plan_says_what_would_be_trained(root: Path, tmp_path: Path) -> None:
    plan = stage(root, tmp_path / "p", steps=None, batch_size=None).plan()
    assert plan["job"]["steps"] == 220
    assert plan["images"] + plan["held_out"] + sum(plan["excluded"].values()) == 30
    assert plan["image_ids"] == "synthetic/0/..."
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "each needs at least one"),
        ({"workers": 3}, "each needs at least one"),
        ({"refs_root": None}, "needs --refs-root"),
        ({"exclude": "nowhere"}, "there is no file .*nowhere"),
        ({"instances": "nowhere.json"}, "nowhere.json"),
        ({"preset": "huge"}, "no proposer preset"),
        ({"images": "nowhere"}, "there is no folder .*nowhere"),
        ({"checkpoint_every": 0}, "--checkpoint-every must be at least 1"),
        ({"weights": "nowhere.pth"}, "there is no file .*nowhere.pth"),
        ({"weights": __file__}, "is not a state dict of tensors"),
        ({"workers": 10_000, "batch_size": 10_000}, "have room for .* workers at most"),
        ({"learning_rate": 1e12, "steps": 8}, "lower --learning-rate"),
    ],
)
def test_wrong_input_is_named(root: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage(root, tmp_path / "p", **changes).run()


def instances_of_boxes(root: Path, out: Path, having_masks: tuple[int, ...]) -> str:
    """The scenes' instances, the annotations of all but these images without a mask."""
    data = json.loads((root / "synthetic/instances.json").read_text())
    for annotation in data["annotations"]:
        if annotation["image_id"] not in having_masks:
            annotation["segmentation"] = []
    out.write_text(json.dumps(data))
    return str(out)


def test_nothing_to_learn_from_is_refused_with_the_reason(root: Path, tmp_path: Path) -> None:
    instances = instances_of_boxes(root, tmp_path / "boxes.json", ())
    with pytest.raises(UserError, match=r"no mask to learn from .* annotations, \d+ have no usable mask: .* is empty"):
        stage(root, tmp_path / "p", instances=instances).run()
    assert not (tmp_path / "p").exists()


def test_what_no_held_out_image_can_measure_is_said_and_not_given_as_a_number(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trained = plan_training(stage(root, tmp_path / "p"))[0].train
    instances = instances_of_boxes(root, tmp_path / "half.json", trained)
    report = stage(root, tmp_path / "p", instances=instances).run()
    assert not {"recall_50", "recall_75", "mask_AP"} & report.keys()
    said = capsys.readouterr()
    assert "held-out images have no instance with a mask" in said.out + said.err
    assert "not measured: there is no held-out instance" in said.out + said.err


def test_another_training_in_the_same_folder_is_refused(root: Path, tmp_path: Path) -> None:
    begin(str(tmp_path / "p"), plan_training(stage(root, tmp_path / "p", steps=8))[0])  # and then it was killed
    with pytest.raises(UserError, match="unfinished training with other settings"):
        stage(root, tmp_path / "p").run()


def test_a_training_that_came_to_nothing_leaves_the_folder_free(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lower --learning-rate"):
        stage(root, tmp_path / "p", learning_rate=1e12, steps=8).run()
    stage(root, tmp_path / "p").run()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_train_one_proposer(root: Path, tmp_path: Path) -> None:
    report = stage(root, tmp_path / "p", workers=2).run()
    assert report["instances"] > 0
    assert load_proposer(str(tmp_path / "p")).proposer_id == report["proposer_id"]


@pytest.mark.cluster
@pytest.mark.soak
def test_a_killed_training_goes_on_from_its_newest_whole_checkpoint(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    command = ["train-proposer", "--instances", str(root / "synthetic/instances.json"), "--out", str(out)]
    command += ["--images", str(root / "images/train2014"), "--namespace", "synthetic/0", "--workers", "2"]
    command += ["--steps", "60", "--batch-size", "4", "--checkpoint-every", "10", "--holdout-fraction", "0.2"]

    def steps(run: Run) -> list[int]:
        return [int(m[1]) for line in run.said if (m := re.match(r"step (\d+)/60", line))]

    first = Run(*command)
    try:
        wait_for(lambda: max(steps(first), default=0) >= 30, first)
        first.kill("driver")
        first.wait()
    finally:
        first.close()
    assert not (out / "proposer.json").exists()
    found = find_latest(str(out / "training"))  # what was being written when it was killed does not count
    assert found is not None
    newest = Path(found.address)
    weights = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(weights[: len(weights) // 2] + bytes(len(weights) - len(weights) // 2))
    second = Run(*command)
    try:
        assert second.wait() == 0, second.said[-5:]
    finally:
        second.close()
    assert f"continuing the unfinished training in {out}" in "\n".join(second.said)
    wrong = f"{newest} is damaged (the content of model.safetensors is not what was written): put aside"
    assert wrong in "\n".join(second.said)
    assert min(steps(second)) > 10, "it began anew"
    assert load_proposer(str(out)).proposer_id
    assert ProposerFolder.read(out).training["held_out"]["instances"] > 0
