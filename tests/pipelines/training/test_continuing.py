"""`train --from MODEL`: it goes on from that very model, wherever it is by now, and says what it added."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mail import lineage
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from mail.inventory import write_inventory
from mail.lineage import model_digest
from mail.model.folder import load_model
from mail.training.curves import Curves
from mail.training.early_stop import is_over
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.boxes import Boxes, make_boxes
from tests.pipelines.stages.test_train import MICRO

WORDS = "text.word_embeddings.weight"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


def make_stage(boxes: Boxes, **changes: object) -> Train:
    values = {
        "data": boxes.store_uri,
        "masks": boxes.masks_uri,
        "workers": 0,
        "global_batch_size": 8,
        "log_every": 2,
        "threads": 1,
        "validation_expressions": 6,
        "register": False,
    }
    return Train(**(values | changes))


@pytest.fixture(scope="module")
def trained(boxes, tmp_path_factory, put_mlflow) -> Path:
    """A finished run that fine-tunings go on from."""
    out = tmp_path_factory.mktemp("parent")
    put_mlflow(out / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        network = ModelOverrides(**MICRO)
        made = make_stage(boxes, preset="tiny", name="first", out=str(out / "run"), steps=4, model=network)
        return Path(made.run()["model"])


@pytest.fixture
def stage(trained, tmp_path, monkeypatch):
    """Makes a stage whose run is in the test's folder, and whose record is with the first run's."""
    monkeypatch.chdir(trained.parents[1])

    def make(boxes: Boxes, **changes: object) -> Train:
        return make_stage(boxes, **{"out": str(tmp_path / "runs" / str(changes["name"]))} | changes)

    return make


@pytest.fixture
def other_words(boxes, tmp_path) -> Boxes:
    """The same photos under other ids, with words that the model has never read."""
    writer = DataStoreWriter(tmp_path / "other", "other")
    for batch in boxes.store.images():
        for image in batch.to_pylist():
            fields = {key: image[key] for key in ("file_name", "image", "height", "width")}
            writer.add_image(image_id=image["image_id"], **fields)
    for row in boxes.store.expressions().to_pylist():
        spoken = row["text"].replace("box", "Quader").replace("the", "の")
        writer.add_expression(**row | {"text": spoken})
    store = writer.finish(sources=[{"path": "o.json", "sha256": "1" * 64, "bytes": 1}])
    return dataclasses.replace(boxes, store=store, store_uri=store.uri)


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(f"{folder}/model.safetensors")


def test_it_begins_with_the_model_and_adds_the_words_that_it_lacks(stage, trained, boxes, other_words, capsys):
    found = stage(other_words, from_=str(trained), name="child", steps=1, learning_rate=1e-12).run()
    (parent, before), (child, after) = load_model(trained), load_model(Path(found["model"]))
    theirs, ours = parent.state_dict(), child.state_dict()
    count = len(before.tokenizer)
    assert after.tokenizer.get_vocab().items() >= before.tokenizer.get_vocab().items()
    assert after.tokenizer.tokenize("の red Quader") == ["の", "red", "quader"]
    assert (
        after.encode_texts(["the red box"])["input_ids"].tolist()
        == before.encode_texts(["the red box"])["input_ids"].tolist()
    )
    assert child.config.vocab_size == len(after.tokenizer) == len(ours[WORDS]) > count
    assert torch.allclose(ours[WORDS][:count], theirs[WORDS], atol=1e-6)
    assert all(torch.allclose(ours[n], t, atol=1e-6) for n, t in theirs.items() if n != WORDS)
    assert "2 words are new to the model and are added" in capsys.readouterr().err

    origin = json.loads(Path(found["model"], "lineage.json").read_text())
    assert origin["parent"] == lineage.read(trained) | {"address": str(trained), "digest": model_digest(trained)}
    assert origin["config"]["recipe"]["weight_decay"] == origin["parent"]["config"]["recipe"]["weight_decay"]
    for address in (origin["parent"]["run_id"], f"runs:/{origin['parent']['run_id']}"):  # noted where its model is
        plan = stage(boxes, from_=address, name="same").plan()
        assert plan["config"]["parent"]["digest"] == model_digest(trained)
    assert "goes on from" in lineage.tree(origin)
    assert lineage.gaps(origin) == []
    parent_without_code = {**origin, "parent": {**origin["parent"], "code_version": None}}
    assert lineage.gaps(parent_without_code) == ["code version of the model that it goes on from"]


def test_what_counts_as_nothing_stays_where_the_photos_say_nothing_of_it(stage, trained, boxes, tmp_path):
    parent = tmp_path / "parent"
    shutil.copytree(trained, parent, ignore=shutil.ignore_patterns("inventory.json"))
    about = json.loads((parent / "processor_config.json").read_text())
    (parent / "processor_config.json").write_text(json.dumps(about | {"no_target_threshold": 0.3}))
    write_inventory(parent)
    found = stage(boxes, from_=str(parent), name="child", steps=1).run()
    assert load_model(Path(found["model"]))[1].no_target_threshold == 0.3


def test_a_killed_start_goes_on_though_the_model_is_another_one_by_now(stage, trained, boxes, tmp_path):
    alias = tmp_path / "champion"
    shutil.copytree(trained, alias)
    options = {"steps": 6, "checkpoint_every": 3, "patience": 0}
    whole = stage(boxes, from_=str(alias), name="whole", **options).run()
    stage(boxes, from_=str(alias), name="cut", **options).run()
    cut = tmp_path / "runs" / "cut"
    for lost in ("model", "checkpoints"):  # killed before the first checkpoint
        shutil.rmtree(cut / lost)
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(state | {"finished": False, "result": {}}))
    shutil.rmtree(alias)
    shutil.copytree(whole["model"], alias)
    resumed = stage(boxes, from_=str(alias), name="cut", resume=True, **options).run()
    first, second = weights(whole["model"]), weights(resumed["model"])
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(UserError, match=r"parent\.digest was"):
        stage(boxes, from_=str(whole["model"]), name="cut", resume=True, **options | {"steps": 9}).run()


def test_what_contradicts_the_model_is_refused_by_name(stage, trained, boxes, tmp_path):
    for options, named in (
        ({"preset": "tiny"}, "--preset: network and vocabulary"),
        ({"tokenizer": "none", "pretrained": "none"}, "--pretrained, --tokenizer"),
        ({"model": ModelOverrides(hidden_size=64)}, r"--model\.hidden-size"),
        ({"model": ModelOverrides(max_text_length=4)}, r"--model\.max-text-length"),
        ({"proposals": "none", "masks": None}, "reads instance masks"),
        ({"from_": str(tmp_path / "nothing")}, "there is no such folder"),
    ):
        with pytest.raises(UserError, match=named):
            stage(boxes, **{"from_": str(trained), "name": "child"} | options).run()
    with pytest.raises(UserError, match="--from MODEL"):
        stage(boxes, name="child").run()
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    with open(damaged / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(UserError, match=r"the content of model\.safetensors is not what was written"):
        stage(boxes, from_=str(damaged), name="child").run()


def test_more_room_for_instances_and_words(stage, trained, boxes, tmp_path, capsys):
    more = ModelOverrides(max_instances=6, max_text_length=12)
    found = stage(boxes, from_=str(trained), name="child", steps=1, model=more).run()
    child, processor = load_model(Path(found["model"]))
    assert (child.config.max_instances, processor.max_instances) == (6, 6)
    assert child.text.position_embeddings.weight.shape[0] == processor.max_text_length == 12
    assert "instance slots: 6 instead of 4" in capsys.readouterr().err


def test_what_the_parent_saw_counts(stage, trained, boxes, tmp_path):
    moved = {"train": "testA", "val": "train", "testA": "val"}
    writer = DataStoreWriter(tmp_path / "swapped", "swapped")
    for batch in boxes.store.images():
        for image in batch.to_pylist():
            fields = {key: image[key] for key in ("file_name", "image", "height", "width")}
            writer.add_image(image_id=f"mine/{image['image_id']}", **fields)
    for row in boxes.store.expressions().to_pylist():
        image_id = f"mine/{row['image_id']}"
        writer.add_expression(**row | {"image_id": image_id, "split": moved[row["split"]]})
    store = writer.finish(sources=[{"path": "o.json", "sha256": "1" * 64, "bytes": 1}])
    assert isinstance(store, DataStore)
    with pytest.raises(UserError, match=r"trained on images of the evaluation splits of swapped: \d+ of 23 of testA"):
        stage(boxes, from_=str(trained), data=store.uri, proposals="none", masks=None, name="child").run()


def test_it_ends_when_the_validation_stays_as_it_is():
    def curves(*scores: float) -> Curves:
        found = Curves()
        found.add("validation", [{"step": 5 * (n + 1), "oIoU": score} for n, score in enumerate(scores)])
        return found

    assert not is_over(curves(0.5, 0.4, 0.5), 3, 5)
    assert is_over(curves(0.5, 0.4, 0.5, 0.2), 3, 5)
    assert not is_over(curves(0.5, 0.4, 0.5, 0.6), 3, 5)
    assert not is_over(curves(0.5, 0.4, 0.5, 0.2), 0, 5)
    assert not is_over(curves(0.5, 0.4, 0.5, 0.2), 3, 10)  # two of them count


def test_the_best_checkpoint_becomes_the_model_and_the_same_command_finds_it_finished(
    stage, trained, boxes, tmp_path, capsys
):
    # a rate at which nothing changes: the first validation is never bettered
    options = {"from_": str(trained), "name": "child", "steps": 40, "checkpoint_every": 1, "learning_rate": 1e-12}
    found = stage(boxes, patience=2, **options).run()
    ended = json.loads((tmp_path / "runs/child/run.json").read_text())["result"]
    assert (ended["ended_at"], ended["steps"]) == (3, 40)
    assert found["model"]
    assert "ended after 3 of 40 steps" in capsys.readouterr().err
    shutil.rmtree(found["model"])
    again = stage(boxes, patience=2, resume=True, **options).run()
    assert model_digest(Path(again["model"]))
    assert json.loads((tmp_path / "runs/child/run.json").read_text())["starts"] == 1


def test_a_rehearsed_share_reads_the_other_store_and_resumes_exactly(stage, trained, boxes, tmp_path, capsys):
    mine = make_boxes(tmp_path / "mine", images=12)
    own = {"data": mine.store_uri, "masks": mine.masks_uri, "from_": str(trained)}
    options = own | {"steps": 6, "checkpoint_every": 3, "rehearse": boxes.store_uri, "share": 0.5}
    whole = stage(boxes, name="whole", **options).run()
    assert "rehearsing boxes, 132 expressions of split train: 50% of every step" in capsys.readouterr().err
    stage(boxes, name="cut", **options).run()
    cut = tmp_path / "runs" / "cut"
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "checkpoints" / "start-001" / "step-0000006")
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(state | {"finished": False, "result": {}}))
    resumed = stage(boxes, name="cut", resume=True, **options).run()
    first, second = weights(whole["model"]), weights(resumed["model"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = stage(boxes, name="plain", **own, steps=6, checkpoint_every=3).run()
    assert any(not torch.equal(first[name], other) for name, other in weights(plain["model"]).items())
    origin = lineage.read(whole["model"])
    assert origin["rehearsal"]["data_store"]["digest"] == boxes.store.digest
    assert origin["rehearsal"]["config"] == {"split": "train", "share": 0.5}
    with pytest.raises(UserError, match=r"rehearsal\.share was 0\.5"):
        stage(boxes, name="cut", resume=True, **options | {"steps": 9, "share": 0.25}).run()


def test_both_are_compared_on_the_new_data_and_on_the_old(stage, trained, other_words, tmp_path):
    child = stage(other_words, from_=str(trained), name="child", steps=2, learning_rate=1e-2).run()["model"]
    options = {"data": other_words.store_uri, "masks": other_words.masks_uri, "split": "testA", "workers": 0}
    Evaluate(model=child, out=tmp_path / "found", compare="parent", gallery=False, **options).run()

    def figures(*names: str) -> dict:
        return json.loads(tmp_path.joinpath("found", *names, "metrics.json").read_text())

    new = figures()
    assert new["compared"]["mIoU"]["baseline"] == pytest.approx(figures("parent")["mIoU"])
    (old,) = new["forgetting"]
    assert (old["data_store"], old["split"]) == ("boxes", "testA")
    sides = {side: figures("forgetting", "testA", side) for side in ("child", "parent")}
    assert sides["parent"]["model"]["digest"] == figures("parent")["model"]["digest"] == model_digest(trained)
    assert sides["child"]["model"]["digest"] == new["model"]["digest"]
    for name, difference in old["difference"].items():
        assert difference["candidate"] == pytest.approx(sides["child"][name])
        assert difference["baseline"] == pytest.approx(sides["parent"][name])
    with pytest.raises(UserError, match="goes on from no other model"):
        Evaluate(model=str(trained), out=tmp_path / "none", compare="parent", **options).run()
