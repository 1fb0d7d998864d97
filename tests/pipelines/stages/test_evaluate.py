"""`evaluate`: the whole split, once, whatever the number of workers, and again after being killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save_file

from mail import rle
from mail.data.image_keys import ImageContent
from mail.errors import UserError
from mail.evaluation import SplitInput
from mail.metrics import read_per_expression, read_predictions
from pipelines.evaluating.evaluation import ANSWERS, Evaluation
from pipelines.evaluating.finished import tell
from pipelines.stages.evaluate import Evaluate
from tests.boxes import Boxes, make_boxes
from tests.mail.test_inference import make_model


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=48, broken=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, boxes: Boxes) -> Path:
    """A network that says what it was trained on."""
    folder = make_model(tmp_path_factory.mktemp("net") / "model")
    store = {"uri": boxes.store_uri, "name": boxes.store.name, "digest": boxes.store.digest}
    (folder / "lineage.json").write_text(json.dumps({"data_store": store, "leaky": False}))
    return folder


@pytest.fixture
def stage(boxes: Boxes, model: Path, tmp_path: Path):
    def make(out: str = "out", **settings: Any) -> Evaluate:
        settings = {"masks": boxes.masks_uri, "split": "train", "allow_leaky": True, "workers": 0, **settings}
        return Evaluate(**{"model": str(model), "data": boxes.store_uri, "out": tmp_path / out, **settings})

    return make


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_three_files_come_out_and_cover_the_split(stage, boxes: Boxes):
    job = stage()
    job.run()
    expressions = boxes.store.splits["train"]["expressions"]
    found = figures(job.out)
    assert list(found)[:6] == ["protocol", "split", "expressions", "oIoU", "mIoU", "prec"]
    assert found["expressions"] == expressions
    assert len(read_predictions(job.out / "predictions.jsonl").masks) == expressions
    assert len(read_per_expression(job.out / "per_expression.jsonl")) == expressions
    assert "</html>" in (job.out / "gallery.html").read_text()
    assert found["mask_table"]["digest"] == boxes.masks.digest
    assert found["data_store"]["digest"] == boxes.store.digest
    assert not (job.out / ".answers.jsonl").exists()


def test_undecodable_images_are_counted_as_empty_and_recorded(stage):
    job = stage()
    job.run()
    found = figures(job.out)
    assert list(found["errors"]) == ["boxes/0000", "boxes/0001"]
    assert set(found["images_without_masks"]) == {"boxes/0000", "boxes/0001"}
    assert found["per_expression"]["boxes/0-0-0"] == 0


def test_what_was_there_to_choose_and_what_was_chosen_is_reported(stage, boxes: Boxes, capsys):
    job = stage()
    job.run()
    found = figures(job.out)["selection"]
    proposed = 34 / 36  # of 36 images two cannot be decoded; the proposals of the others are their targets
    assert found["expressions"] == 36 * 6
    assert found["ceiling"] == pytest.approx(proposed)
    assert found["none_there"] == pytest.approx(1 - proposed)
    assert found["chosen_good"] + found["passed_over"] == pytest.approx(proposed)
    assert 0 < found["chosen_good"] < proposed  # of a network that nobody trained
    assert found["final"] == pytest.approx(figures(job.out)["mIoU"])
    # the indices in the predictions file are those that were counted
    chosen = read_predictions(job.out / "predictions.jsonl").masks
    rows = boxes.store.expressions(["train"]).to_pylist()
    masks = boxes.masks.proposals([r["image_id"] for r in rows])
    right = 0
    for row in rows:
        taken = chosen[row["expr_id"]].selection[:1]
        right += bool(taken) and rle.iou_matrix([row["target"]], [masks[row["image_id"]].rles[taken[0]]])[0, 0] >= 0.5
    assert right / len(rows) == pytest.approx(found["chosen_good"])
    printed = capsys.readouterr().out
    assert "selection of boxes / train" in printed
    assert f"{100 * found['ceiling']:.2f}" in printed
    page = (job.out / "gallery.html").read_text()
    assert '"name":"selection"' in page
    assert '"none there' in page
    without = stage("without", masks=None, no_proposals=True)
    without.run()
    assert "selection" not in figures(without.out)
    assert '"name":"selection"' not in (without.out / "gallery.html").read_text()


def test_sentences_that_lose_their_end_are_counted_and_said(stage, boxes, model, tmp_path, capsys):
    short = shutil.copytree(model, tmp_path / "short")
    settings = json.loads((short / "processor_config.json").read_text())
    (short / "processor_config.json").write_text(json.dumps(settings | {"max_text_length": 4}))
    job = stage(model=str(short))
    job.run()
    texts = boxes.store.expressions(["train"], ["text"])["text"].to_pylist()
    longer = sum(len(text.split()) == 3 for text in texts)  # "the red box", five pieces with its two ends
    assert 0 < longer < len(texts)
    assert figures(job.out)["texts"]["cut_sentences"] == longer
    said = capsys.readouterr().err
    assert f"{longer} of {len(texts)} sentences" in said
    assert "lose their end (first: 'box')" in said


def test_scoring_the_predictions_file_gives_the_same_figures(stage, boxes: Boxes, tmp_path: Path):
    from pipelines.stages.score import Score

    job = stage()
    job.run()
    predictions = str(job.out / "predictions.jsonl")
    Score(data=boxes.store_uri, split="train", predictions=predictions, json=str(tmp_path / "s.json")).run()
    scored, evaluated = json.loads((tmp_path / "s.json").read_text()), figures(job.out)
    keys = ("oIoU", "mIoU", "prec", "slices", "per_expression")
    assert {k: scored[k] for k in keys} == {k: evaluated[k] for k in keys}


def test_an_interrupted_evaluation_continues_and_ends_alike(stage):
    whole = stage("whole")
    whole.run()
    killed = stage("killed")
    Evaluation.prepare(killed).predict([0, 2])
    record = killed.out / ANSWERS
    record.write_text(record.read_text() + '{"image_id": "cut in the mid')
    answered = Evaluation.prepare(killed).answers
    assert len(answered) == 16
    killed.run()
    for name in ("predictions.jsonl", "metrics.json", "gallery.html"):
        ours, theirs = (folder / name for folder in (killed.out, whole.out))
        assert ours.read_text().replace("killed", "whole") == theirs.read_text()


def test_a_finished_evaluation_is_told_as_long_as_nothing_that_it_reads_changes(stage, boxes, model, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    job = stage(model=str(own), split="val")
    job.run()
    program = (
        "import sys; from pipelines.__main__ import main\n"
        "code = main(sys.argv[1:]); print({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules))\n"
        "sys.exit(code)"
    )
    options = {"model": own, "data": boxes.store_uri, "masks": boxes.masks_uri, "split": "val", "out": job.out}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-c", program, "evaluate", *given, "--allow-leaky", "--workers", "1"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0].startswith("val: oIoU ")
    assert told[0].endswith("(finished before, of the same model, data and options)")
    assert told[1:] == ["set()"]
    assert not tell(stage(model=str(own), split="val", protocol="cris"))
    predictions = job.out / "predictions.jsonl"
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:-1])
    assert not tell(job)
    predictions.write_bytes(whole)
    assert tell(job)
    (own / "lineage.json").write_text("{}")  # where it comes from changes no figure
    assert tell(job)
    (own / "processor_config.json").write_text((own / "processor_config.json").read_text() + " ")
    assert not tell(job)


def test_answers_of_another_evaluation_are_not_used(stage):
    first = stage()
    Evaluation.prepare(first).predict([0])
    assert len(Evaluation.prepare(first).answers) == 8
    assert Evaluation.prepare(stage(no_proposals=True, masks=None)).answers == {}
    assert Evaluation.prepare(stage(split="val")).answers == {}
    assert Evaluation.prepare(stage(protocol="cris")).answers == {}
    assert Evaluation.prepare(stage(batch_images=4)).answers == {}


def test_two_models_stand_side_by_side(stage):
    stage("with").run()
    without = stage("without", masks=None, no_proposals=True, compare=stage("with").out)
    without.run()
    found = figures(without.out)["compared"]
    assert found["mIoU"]["candidate"] == figures(without.out)["mIoU"]
    assert found["mIoU"]["baseline"] == figures(stage("with").out)["mIoU"]
    assert '"models":[{"name":"without"},{"name":"with"}]' in (without.out / "gallery.html").read_text()


def test_the_dry_run_says_what_would_be_done(stage, capsys: pytest.CaptureFixture[str]):
    job = stage(dry_run=True)
    job.execute()
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["images"], plan["batches"], plan["answered_already"]) == (36, 5, 0)
    assert not job.out.exists()


def test_masks_must_be_named_and_complete(stage, boxes: Boxes, tmp_path: Path):
    with pytest.raises(UserError, match="--no-proposals"):
        stage(masks=None).run()
    with pytest.raises(UserError, match="exclude each other"):
        stage(no_proposals=True).run()
    fewer = make_boxes(tmp_path / "fewer", images=8)
    with pytest.raises(UserError, match="run `mail-ris precompute`"):
        stage(masks=fewer.masks_uri).run()


def test_a_damaged_model_is_found_before_anything_begins(stage, model: Path, tmp_path: Path):
    damaged = shutil.copytree(model, tmp_path / "damaged")
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[:-100])
    job = stage(model=str(damaged), workers=2)
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        job.run()
    tensors = load(weights)
    save_file({k: v for k, v in tensors.items() if k != max(tensors)}, damaged / "model.safetensors")
    with pytest.raises(UserError, match=f"1 are missing or unknown, first: {max(tensors)}"):
        job.run()
    assert not job.out.exists()


def test_what_is_compared_with_and_where_it_is_written_is_looked_at_first(stage, tmp_path: Path):
    with pytest.raises(UserError, match=r"per_expression\.jsonl"):
        stage(compare=tmp_path).plan()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, not a folder"):
        stage(out="file/out").plan()


def test_a_proposer_of_unknown_origin_is_refused_or_labelled(stage, boxes: Boxes, tmp_path: Path):
    masks = shutil.copytree(boxes.masks_uri, tmp_path / "masks")
    shutil.rmtree(masks / "_proposers")
    with pytest.raises(UserError, match="nobody knows which images"):
        stage(split="val", masks=str(masks), allow_leaky=False).run()
    job = stage(split="val", masks=str(masks))
    job.run()
    assert figures(job.out)["leaky"] is True


def test_a_model_that_was_trained_on_images_of_the_split_is_refused(stage, boxes: Boxes, model: Path, tmp_path: Path):
    other = shutil.copytree(model, tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    # the same images in another store, where all are of the training split
    rows = boxes.store.expressions().to_pylist()
    from mail.data.store_writer import DataStoreWriter

    writer = DataStoreWriter(tmp_path / "elsewhere" / "store", "joint")
    for batch in boxes.store.images():
        for image in batch.to_pylist():
            content = ImageContent(*map(image.pop, ImageContent._fields))
            writer.add_image(**image, content=content)
    for row in rows:
        writer.add_expression(**{**row, "split": "train"})
    joint = writer.finish()
    store = {"uri": joint.uri, "name": joint.name, "digest": joint.digest}
    (other / "lineage.json").write_text(json.dumps({"data_store": store, "leaky": False}))
    evaluation = stage(split="val", masks=None, no_proposals=True, allow_leaky=False)
    evaluation.model = str(other)
    with pytest.raises(UserError, match="the model was trained on images of the evaluation splits"):
        evaluation.run()


@pytest.mark.cluster
def test_the_numbers_do_not_depend_on_the_workers(stage, ray_cluster: None):
    results = []
    for workers in (0, 1, 2):
        job = stage(f"workers-{workers}", workers=workers, gallery=False)
        job.run()
        results.append([(job.out / n).read_bytes() for n in ("predictions.jsonl", "metrics.json")])
    assert all(result == results[0] for result in results)
    assert json.loads(results[0][1])["oIoU"] > 0


@pytest.mark.cluster
def test_a_killed_worker_costs_no_answer_and_doubles_none(stage, ray_cluster: None):
    from pipelines.evaluating.workers import predict

    expected = stage("expected", gallery=False, batch_images=2)
    expected.run()
    job = Evaluation.prepare(stage("killed", gallery=False, batch_images=2))
    killed, answers = False, []
    source = SplitInput.of(job.store, job.plan, job.snapshot)
    for answer in predict(source, job.folder, list(range(len(job.plan))), 3, job.protocol.threshold, None):
        answers.append(answer)
        if not killed:
            os.kill(predicting_actors()[0], signal.SIGKILL)
            killed = True
    assert killed
    assert sorted(a.image_id for a in answers) == sorted(i.image_id for i in job.plan.images)
    found = {e: p for a in answers for e, p in a.predictions.items()}
    assert found == read_predictions(expected.out / "predictions.jsonl").masks


@pytest.mark.soak
@pytest.mark.cluster
def test_an_evaluation_whose_driver_was_killed_continues_and_ends_alike(model: Path, repository: Path, tmp_path: Path):
    many = make_boxes(tmp_path / "many", images=400)
    given = {"model": str(model), "data": many.store_uri, "masks": many.masks_uri, "split": "train"}
    arguments = [part for key, value in given.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "pipelines", "evaluate", *arguments, "--out", str(tmp_path / "out")]
    command += ["--allow-leaky", "--workers", "1", "--batch-images", "1", "--no-gallery"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    record = tmp_path / "out" / ".answers.jsonl"
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not record.exists() or record.read_bytes().count(b"\n") < 20:
        assert driver.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    driver.kill()
    driver.wait()
    answered = record.read_bytes().count(b"\n") - 1
    assert 0 < answered < 300
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"continuing: {answered} of 300 images" in done.stderr
    whole = Evaluate(**given, out=tmp_path / "whole", allow_leaky=True, workers=0, batch_images=1, gallery=False)
    whole.run()
    for name in ("predictions.jsonl", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole.out / name).read_bytes()


def predicting_actors() -> list[int]:
    """Processes below this one that predict."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # ended meanwhile
    return [
        pid for pid, name in names.items() if b"PredictingActor" in name and os.getpid() in _ancestors(pid, parents)
    ]


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    found = []
    while pid in parents:
        pid = parents[pid]
        found.append(pid)
    return found
