"""The train stage: it ends with a model, resumes exactly, and says what is wrong. `workers=0` runs without Ray."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViltConfig, ViltModel

from mail.data.custom import write_store
from mail.data.epoch_plan import Batch
from mail.errors import UserError
from mail.inference import Predictor
from mail.inventory import check_inventory
from mail.model.tokenization import SPECIAL
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.training.checkpoint import find_latest
from mail.training.run_plan import RunPlan
from mail.training.step import TrainingBatch
from pipelines.registry.client import connect, experiment
from pipelines.registry.models import MODEL_NAME, find_version
from pipelines.stages.train import Train
from pipelines.training.catching_up import register_folder
from pipelines.training.clock import Clock, memory_advice
from pipelines.training.config import ModelOverrides
from pipelines.training.input import Transport
from pipelines.training.overlays import default_every
from pipelines.training.run_state import RunState, differences
from pipelines.training.shares import share_cluster, share_nodes, worker_range
from tests.boxes import Boxes, make_boxes, micro_config
from tests.pipelines.small_training import small_training
from tests.published import box, jpeg

MICRO = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "max_text_length": 8,
    "mask_stride": 4,
    "max_instances": 4,
    "decoder_dim": 8,
    "stem_dim": 8,
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


COMPILED = {"plain": "no", "compiled": "required"}


@pytest.fixture
def train(boxes, tmp_path, monkeypatch, put_mlflow):
    """Makes a small train stage in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    put_mlflow(tmp_path / "mlflow.db")

    def make(**changes: object) -> Train:
        values = {
            "preset": "tiny",
            "checkpoint_every": 3,
            "log_every": 2,
            "model": ModelOverrides(**MICRO),
        }
        return small_training(boxes, **(values | changes))

    return make


def read(result: dict, name: str) -> dict:
    return json.loads(Path(result["model"], name).read_text())


def weights(folder: str) -> dict:
    return {k: v.tolist() for k, v in load_file(f"{folder}/model.safetensors").items()}


def test_it_ends_with_a_model_that_predicts(train, boxes):
    result = train().run()
    predictor = Predictor.from_pretrained(result["model"])
    image = next(iter(boxes.store.images(["image"], 30)))["image"][4].as_py()
    assert predictor.predict(image, "the red box")[0].mask.shape == (64, 40)
    assert set(result["validation"]) == {"oIoU", "mIoU", "prec_50", "expressions", "no_target_threshold"}
    assert result["validation"]["expressions"] == 6


def test_the_model_knows_where_it_comes_from(train, boxes):
    result = train().run()
    lineage = read(result, "lineage.json")
    assert lineage["run_id"] == result["run_id"]
    assert lineage["data_store"]["digest"] == boxes.store.digest
    assert lineage["mask_table"]["digest"] == boxes.masks.digest
    assert lineage["proposer"]["id"] == boxes.masks.proposer_id
    assert lineage["config"]["recipe"]["steps"] == 6


def test_a_run_killed_after_a_checkpoint_resumes_to_the_same_weights(train, tmp_path):
    whole = train(name="whole").run()
    train(name="cut").run()
    # as a kill between the first checkpoint and the end would have left it
    cut = tmp_path / "runs" / "cut"
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "checkpoints" / "start-001" / "step-0000006")
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(state | {"finished": False, "result": {}}))

    resumed = train(name="cut", resume=True).run()
    assert weights(resumed["model"]) == weights(whole["model"])
    assert resumed["run_id"] == state["run_id"]
    history = connect().get_metric_history(state["run_id"], "train/loss")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(train, tmp_path, capsys):
    whole = train(name="whole").run()
    train(name="cut").run()
    cut = tmp_path / "runs" / "cut"
    shutil.rmtree(cut / "model")
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(state | {"finished": False, "result": {}}))
    newest = cut / "checkpoints" / "start-001" / "step-0000006"
    damaged = newest / "model.safetensors"
    content = damaged.read_bytes()
    half = len(content) // 2
    damaged.write_bytes(content[:half] + bytes(len(content) - half))  # as a power cut leaves it: the size is right

    resumed = train(name="cut", resume=True).run()
    said = capsys.readouterr().err
    assert f"checkpoint {newest} is damaged (the content of model.safetensors is not what was written)" in said
    assert f"going on from {newest.with_name('step-0000003')}" in said
    assert weights(resumed["model"]) == weights(whole["model"])
    assert (newest / "damaged-checkpoint.json").exists()


def test_a_model_with_one_other_bit_is_refused_by_name(train):
    result = train().run()
    for name in ("model.safetensors", "lineage.json", "tokenizer.json"):
        path = Path(result["model"], name)
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(UserError, match=f"model is damaged: the content of {name} is not what was written"):
            Predictor.from_pretrained(result["model"])
        path.write_bytes(content)
    Predictor.from_pretrained(result["model"])


def test_curves_go_by_steps_and_by_expressions_seen(train):
    run_id = train().run()["run_id"]
    client = connect()
    seen = client.get_metric_history(run_id, "train/expressions_seen")
    assert [(m.step, m.value) for m in seen] == [(s, 8 * s) for s in range(1, 7)]
    names = set(client.get_run(run_id).data.metrics)
    wanted = {"loss", "gradient_norm", "learning_rate"}
    assert {f"train/{n}" for n in wanted} | {"speed/teraflops_per_worker", "speed/waiting_for_data"} <= names
    assert {"validation/oIoU", "validation/mIoU"} <= names


def test_what_mlflow_was_away_for_is_told_after_the_end(train, monkeypatch):
    from pipelines.registry.run_log import RunLog

    monkeypatch.setattr("pipelines.training.driver.CLOSE_SECONDS", 0.0)
    with monkeypatch.context() as away:
        away.setattr(RunLog, "_metrics", lambda self, rows, prefix: 1 / 0)
        away.setattr(RunLog, "_image", lambda self, read, key, step: 1 / 0)
        away.setattr("pipelines.registry.run_log.RETRY_SECONDS", 0.01)
        result = train().run()
    assert result["recorded"] is False
    assert connect().get_run(result["run_id"]).data.metrics == {}
    assert not pictures(result["run_id"])
    monkeypatch.undo()
    monkeypatch.chdir(Path(result["model"]).parents[2])
    train(resume=True).run()
    history = connect().get_metric_history(result["run_id"], "train/loss")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]
    assert pictures(result["run_id"]) == {(key, step): 1 for key in SAMPLES for step in (3, 6)}


def test_progress_is_json_where_logs_are_collected(train, monkeypatch, capsys):
    monkeypatch.setenv("MAIL_LOG_FORMAT", "json")
    train().run()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    (last,) = [x for x in lines if x.get("event") == "step" and x["step"] == 6]
    assert last["loss"] > 0
    assert [x["step"] for x in lines if x.get("event") == "validation"] == [3, 6]


def pictures(run_id: str) -> Counter[tuple[str, int]]:
    """Key and step of the pictures that a run has in MLflow, with how often."""
    names = [Path(f.path).name for f in connect().list_artifacts(run_id, "images") if f.path.endswith(".png")]
    return Counter((name.split("+")[0], int(name.split("+step+")[1].split("+")[0])) for name in names)


SAMPLES = [f"sample_{number}" for number in range(4)]


def test_the_run_says_what_was_read_and_is_found_by_it(train, boxes):
    run_id, client = train().run()["run_id"], connect()
    store, masks = (client.get_run(run_id).inputs.dataset_inputs[n].dataset for n in (0, 1))
    assert (store.name, store.digest) == ("boxes", boxes.store.digest[:36])
    assert json.loads(store.profile)["digest"] == boxes.store.digest
    assert (masks.name, masks.digest) == (boxes.masks.proposer_id, boxes.masks.digest[:36])
    experiment = client.get_experiment_by_name("mail-ris").experiment_id
    for context, dataset in (("training", store), ("masks", masks)):
        words = f"dataset.digest = '{dataset.digest}' AND dataset.context = '{context}'"
        assert [r.info.run_id for r in client.search_runs([experiment], words)] == [run_id]
        assert not client.search_runs([experiment], words.replace(dataset.digest, "0" * 36))


def test_the_machine_is_recorded_if_mlflow_is_told_to(train, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    found = connect().get_run(train(steps=30).run()["run_id"]).data.metrics
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    found = connect().get_run(train(name="plain").run()["run_id"]).data.metrics
    assert not [key for key in found if key.startswith("system/")]


def test_pictures_of_the_same_answers_go_along_the_curve(train, tmp_path):
    run_id = train().run()["run_id"]
    assert pictures(run_id) == {(key, step): 1 for key in SAMPLES for step in (3, 6)}
    first, last = (np.asarray(Image.open(tmp_path / f"runs/micro/overlays/step-000000{step}/0.png")) for step in (3, 6))
    assert first.shape == last.shape  # the same photo


def test_pictures_come_every_few_validations_and_at_the_end(train):
    run_id = train(steps=7, checkpoint_every=2, overlay_every=2).run()["run_id"]
    assert {step for _, step in pictures(run_id)} == {4, 7}


def test_a_long_run_has_about_ten_sets_of_pictures():
    assert [default_every(6, 3), default_every(6000, 600), default_every(500_000, 1000)] == [1, 1, 50]


def test_pictures_do_not_change_what_is_learnt(train):
    shown, plain = train(name="shown").run(), train(name="plain", overlay_every=0).run()
    assert weights(shown["model"]) == weights(plain["model"])
    assert not pictures(plain["run_id"])


def test_pictures_that_cannot_be_written_end_no_training(train, tmp_path, capsys):
    (tmp_path / "runs" / "micro").mkdir(parents=True)
    (tmp_path / "runs" / "micro" / "overlays").touch()  # a file where their folder would be
    assert train().run()["last"]["step"] == 6
    assert "no pictures of step 6" in capsys.readouterr().err


def test_accumulation_does_not_change_the_result(train):
    whole, parts = train(name="whole").run(), train(name="parts", micro_batch_size=3).run()
    assert parts["last"]["loss"] == pytest.approx(whole["last"]["loss"], abs=1e-5)


@pytest.mark.soak
def test_a_compiled_network_computes_the_same_and_goes_on(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    plain, compiled = train(name="plain").run(), train(name="compiled", compile="required").run()
    assert compiled["last"]["loss"] == pytest.approx(plain["last"]["loss"], abs=1e-4)
    assert compiled["validation"]["mIoU"] == pytest.approx(plain["validation"]["mIoU"], abs=1e-3)
    assert weights(compiled["model"]).keys() == weights(plain["model"]).keys()
    longer = [train(name=name, compile=how, resume=True, steps=9).run() for name, how in COMPILED.items()]
    assert longer[1]["last"]["loss"] == pytest.approx(longer[0]["last"]["loss"], abs=1e-4)
    assert "compiled in" in capsys.readouterr().err


def test_a_compiler_that_fails_is_said_and_done_without(train, tmp_path, monkeypatch, capsys):
    plain = train(name="plain").run()
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "compiled"))
    assert train(name="compiled", compile="yes").run()["last"]["loss"] == plain["last"]["loss"]
    assert "the network cannot be compiled, so it is trained as it is" in capsys.readouterr().err
    with pytest.raises(UserError, match="--compile required"):
        train(name="required", compile="required").run()


def test_a_finished_run_is_not_trained_again(train, capsys):
    train().run()
    with pytest.raises(UserError, match=r"finished \(6 steps"):
        train().run()
    train(resume=True).run()
    assert "is finished: 6 steps" in capsys.readouterr().out
    longer = train(resume=True, steps=9).run()
    assert longer["last"]["step"] == 9
    kept = {p.name for p in Path(train().folder, "checkpoints").glob("*/step-*")}
    assert kept == {"step-0000006", "step-0000009", Path(longer["best"]["checkpoint"]).name}


def test_a_finished_run_stays_finished_whatever_was_cleaned_up(train, capsys):
    run, again, longer = train(), train(resume=True), train(resume=True, steps=9)
    result = run.run()
    learnt, record = weights(result["model"]), Path(run.folder, "run.json").read_bytes()
    assert again.run() == {k: v for k, v in result.items() if k != "seconds"}

    shutil.rmtree(result["model"])
    again.run()
    assert "was gone: exported again from" in capsys.readouterr().err
    assert weights(result["model"]) == learnt
    assert read(result, "lineage.json")["run_id"] == result["run_id"]

    shutil.rmtree(f"{run.folder}/checkpoints")
    again.run()
    with pytest.raises(UserError, match=f"no checkpoint is left to go on from; its model is {result['model']}: "):
        longer.run()
    assert weights(result["model"]) == learnt

    shutil.rmtree(result["model"])
    for changes in (again, longer):
        with pytest.raises(UserError, match=r"with 6 steps and no checkpoint .*; its model is gone as well: "):
            changes.run()
    assert Path(run.folder, "run.json").read_bytes() == record


def test_a_finished_run_is_told_without_loading_the_network(train):
    result = train().run()
    program = (
        "import sys; from pipelines.__main__ import main\n"
        "code = main(sys.argv[1:]); print({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules))\n"
        "sys.exit(code)"
    )
    model = [f"--model.{name.replace('_', '-')}={value}" for name, value in MICRO.items()]
    changed = {
        k: v for k, v in vars(train()).items() if v != getattr(Train, k, None) and k not in ("register", "model")
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    command = [sys.executable, "-c", program, "train", *options, "--no-register", "--resume", *model]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == [f"run micro is finished: 6 steps, model in {result['model']}", "set()"]


def test_what_mlflow_lost_is_given_to_it_again_from_the_folder(train, boxes, tmp_path):
    first = train().run()
    connect().delete_run(first["run_id"])
    second = train(resume=True).run()
    assert second["run_id"] not in (None, first["run_id"])
    assert read(second, "lineage.json")["run_id"] == second["run_id"]
    check_inventory(Path(second["model"]))
    connect().delete_run(second["run_id"])
    version = register_folder(str(tmp_path / "runs" / "micro"))
    found = find_version(f"{MODEL_NAME}/{version}")
    assert found.run_id not in (first["run_id"], second["run_id"])
    recorded = connect().get_run(found.run_id)
    history = connect().get_metric_history(found.run_id, "train/loss")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]
    assert recorded.data.params["recipe.steps"] == "6"
    digests = [boxes.store.digest, boxes.masks.digest]
    assert [given.dataset.digest for given in recorded.inputs.dataset_inputs] == [d[:36] for d in digests]
    state = json.loads((tmp_path / "runs/micro/run.json").read_text())
    assert (state["run_id"], state["result"]["recorded"], state["result"]["version"]) == (found.run_id, True, version)
    assert register_folder(str(tmp_path / "runs" / "micro" / "model")) == version  # and nothing is made twice


def test_a_finished_run_that_mlflow_does_not_take_yet_is_none_the_worse(train, tmp_path, monkeypatch, capsys):
    result = train().run()
    state = tmp_path / "runs" / "micro" / "run.json"
    noted = json.loads(state.read_text())
    noted["result"]["recorded"] = False
    state.write_text(json.dumps(noted))
    (tmp_path / "nowhere").touch()  # a file where the folder would be
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
        assert train(resume=True).run()["model"] == result["model"]
    told = capsys.readouterr()
    assert "MLflow does not have the run's record (MLflow at sqlite:" in told.err
    assert told.out.splitlines()[-1] == f"run micro is finished: 6 steps, model in {result['model']}"
    assert not json.loads(state.read_text())["result"]["recorded"]


def test_an_interrupted_run_wants_resume(train, tmp_path):
    RunState.open("runs/micro", "micro").begin({"preset": "tiny"})
    with pytest.raises(UserError, match="has 0 steps: go on with --resume"):
        train().run()


def test_a_start_that_came_to_nothing_leaves_the_name_free(train, tmp_path, monkeypatch):
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
        (tmp_path / "nowhere").touch()  # a file where the folder would be
        with pytest.raises(UserError, match="MLflow at"):
            train().run()
    with pytest.raises(UserError, match="lower --learning-rate"):
        train(learning_rate=1e30).run()
    assert not Path("runs/micro/run.json").exists()
    assert train().run()["steps"] == 6
    runs = connect().search_runs([experiment(connect())])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]


def test_a_loss_that_is_no_number_is_gone_on_from_as_its_message_says(train, tmp_path):
    rising = {"resume": True, "steps": 9, "learning_rate": 1e30, "because": "to see it break"}
    train().run()
    with pytest.raises(UserError, match="--resume --learning-rate X --because REASON") as broken:
        train(**rising).run()
    assert "not finite" in str(broken.value)
    kept = find_latest("runs/micro/checkpoints")
    assert kept is not None
    assert kept.step == 6
    mended = train(resume=True, steps=9, learning_rate=1e-4, because="the loss became nan").run()
    assert mended["steps"] == 9
    assert all(torch.isfinite(value).all() for value in load_file(f"{mended['model']}/model.safetensors").values())
    was = json.loads((tmp_path / "runs/micro/run.json").read_text())["config"]
    assert was == read(mended, "lineage.json")["config"]
    (change,) = was["changes"]
    assert (change["step"], change["learning_rate"][1], change["because"]) == (6, 1e-4, "the loss became nan")


def test_a_resumed_start_that_came_to_nothing_changes_nothing(train):
    train().run()
    before = Path("runs/micro/run.json").read_bytes()
    shutil.copytree("runs/micro/checkpoints", "kept")
    weights = Path("runs/micro/checkpoints/start-001/step-0000006/model.safetensors")
    weights.write_bytes(bytes(weights.stat().st_size))
    manifest = weights.with_name("checkpoint.json")
    lengths = {p.name: p.stat().st_size for p in weights.parent.iterdir() if p != manifest}  # all that was once noted
    manifest.write_text(json.dumps({"format_version": 1, "step": 6, "validation": None, "files": lengths}))
    with pytest.raises(Exception, match="header"):
        train(resume=True, steps=9).run()
    assert Path("runs/micro/run.json").read_bytes() == before


def test_a_start_does_not_take_back_another_ones(train):
    ours, theirs = RunState.open("runs/micro", "micro"), RunState.open("runs/micro", "micro")
    ours.begin({})
    theirs.begin({})
    ours.withdraw()
    assert RunState.open("runs/micro", "micro").key == theirs.key


def test_a_run_does_not_go_on_with_another_config(train):
    train().run()
    with pytest.raises(UserError, match=r"recipe.learning_rate was .* is 0.5"):
        train(resume=True, steps=9, learning_rate=0.5).run()


def test_without_proposals_the_network_has_no_mask_modality(train):
    result = train(proposals="none", masks=None).run()
    config = read(result, "config.json")
    assert config["mask_modality"] == "none"
    assert read(result, "lineage.json")["mask_table"] is None


def test_images_that_cannot_be_decoded_are_left_out_and_said(train):
    stage = train()
    lines = " ".join(RunPlan.make(stage).summary())
    assert "left out: 1 images that cannot be decoded, with 6 expressions" in lines
    assert stage.plan()["training"]["skipped_images"] == 1


def test_weights_in_a_relative_folder_are_those_of_the_driver(train, tmp_path):
    (tmp_path / "vilt").mkdir()
    (tmp_path / "vilt" / "vocab.txt").write_text("\n".join([*SPECIAL, "red", "box"]))
    run = RunPlan.make(train(pretrained="vilt", data=os.path.relpath(train().data), out="run"))
    assert run.beginning.pretrained == run.config["pretrained"] == str(tmp_path / "vilt")
    assert run.source.store_uri == run.store.uri
    assert os.path.isabs(run.store.uri)
    assert os.path.samefile(run.store.uri, train().data)
    assert run.options.folder == str(tmp_path / "run")
    named = RunPlan.make(train(pretrained="dandelin/vilt-b32-mlm", tokenizer="vilt"))
    assert named.beginning.pretrained == "dandelin/vilt-b32-mlm"
    assert named.describe()["fetched_from_the_hugging_face_hub"] == ["dandelin/vilt-b32-mlm"]
    assert "from the Hugging Face hub: dandelin/vilt-b32-mlm" in " ".join(named.summary())
    assert run.beginning.fetched == ()


def test_the_dry_run_tells_the_cost(train):
    plan = train().plan()
    assert plan["network"]["parameters"] > 0
    assert plan["training"]["steps_per_epoch"] == plan["training"]["expressions_per_epoch"] / 8
    assert json.dumps(plan)


def test_a_split_of_any_name_is_validated_on_if_it_is_named(train, tmp_path):
    row = {"text": "box", "polygons": box(1, 1, 9, 9)}
    rows = [row | {"expr_id": str(n), "image": f"{n}.jpg", "split": "train" if n else "test"} for n in range(9)]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for number in range(9):
        Path(f"{number}.jpg").write_bytes(jpeg(seed=number))
    write_store("mine.jsonl", tmp_path, "store", name="mine")
    own = {"data": "store", "masks": None, "proposals": "none"}
    plan = train(**own).plan()["training"]
    assert plan["validation_expressions"] == 0
    assert plan["validation"] == (
        "no validation: the data store has no split 'val'; it has test: name one with --validation-split"
    )
    assert train(**own, validation_split="test").plan()["training"]["validation"] == "test"
    with pytest.raises(UserError, match="no split 'dev': it has test, train"):
        train(**own, validation_split="dev").plan()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "huge"}, "no preset 'huge': choose one of tiny"),
        ({"split": "trian"}, "no split 'trian'"),
        ({"data": "nowhere"}, "not a data store"),
        ({"masks": None}, "--masks is missing"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"model": ModelOverrides(image_size=100)}, "this network cannot be"),
        ({"tokenizer": "nowhere/at-all"}, "no tokenizer at 'nowhere/at-all'"),
        ({"tokenizer": __file__}, r"is not BERT's: it has no \[PAD\]"),
        ({"pretrained": "nowhere/at-all", "tokenizer": "vocab.txt"}, "no ViLT weights at 'nowhere/at-all'"),
        ({"pretrained": "damaged", "tokenizer": "vocab.txt"}, "no ViLT weights at '.*/damaged'"),
        ({"pretrained": "other", "tokenizer": "vocab.txt"}, r"does not fit, \d+ tensors: .* for \("),
        ({"name": ".."}, "a run needs a name"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0 must be at least 1"),
        ({"proposer": "nowhere"}, "nowhere is not a proposer"),
        ({"workers": 10_000}, "have room for .* workers at most"),
        ({"out": "vocab.txt/run"}, r"vocab.txt/run cannot be written: .*vocab.txt is a file, not a folder"),
        ({"out": "/proc/run"}, "/proc/run cannot be written"),
        ({"keep_checkpoints": 10**9}, "GiB are free on its disk"),
    ],
)
def test_wrong_options_are_one_clear_line_before_anything_begins(train, tmp_path, wrong, message):
    Path("mlflow.db").unlink()
    vilt("damaged", 32)
    (tmp_path / "damaged/model.safetensors").write_bytes(b"not safetensors")
    vilt("other", 64)
    Path("vocab.txt").write_text("\n".join([*SPECIAL, "red", "green", "blue", "box"]))
    with pytest.raises(UserError, match=message) as refused:
        train(**wrong).plan()
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=message):
        train(**wrong).run()
    assert not Path("runs").exists()
    assert not Path("mlflow.db").exists()


def test_a_relative_folder_of_weights_is_found_from_everywhere(train, tmp_path):
    vilt("weights", 32)
    Path("vocab.txt").write_text("\n".join([*SPECIAL, "red", "green", "blue", "box"]))
    stage = train(pretrained="weights", tokenizer="vocab.txt")
    assert RunPlan.make(stage).beginning.pretrained == str(tmp_path / "weights")
    assert stage.run()["steps"] == 6
    shutil.rmtree("weights")  # no longer needed
    assert train(pretrained="weights", tokenizer="vocab.txt", resume=True, steps=7).run()["steps"] == 7


def vilt(folder: str, width: int) -> None:
    """Weights of a small ViLT."""
    sizes = {k: v for k, v in MICRO.items() if k in ViltConfig().to_dict()} | {"hidden_size": width}
    sizes |= {"vocab_size": len(SPECIAL) + 4, "patch_size": 16, "max_position_embeddings": MICRO["max_text_length"]}
    ViltModel(ViltConfig(**sizes), add_pooling_layer=False).save_pretrained(folder)


def test_a_proposer_of_unknown_origin_is_refused(train, boxes, tmp_path):
    table = tmp_path / "masks"
    shutil.copytree(boxes.masks_uri, table)
    shutil.rmtree(table / "_proposers")
    with pytest.raises(UserError, match="nobody knows which images"):
        train(masks=str(table)).plan()
    assert train(masks=str(table), allow_leaky=True).plan()["leaky"]


def test_the_proposer_goes_along_with_the_model(train, tmp_path):
    settings = {"network": NetworkConfig(), "selection": SelectionConfig(), "weights": b"", "training": {}}
    folder = write_proposer(tmp_path / "proposer", seen=None, **settings)
    result = train(proposer=str(tmp_path / "proposer"), validation_expressions=0).run()
    assert ProposerFolder.read(f"{result['model']}/proposer").proposer_id == folder.proposer_id


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("cpus", [1, 2, 4, 96])
def test_workers_and_their_input_fit_into_the_cluster(cpus, workers):
    shares = share_cluster([{"CPU": cpus}], workers)
    assert workers * shares.worker_cpus + workers * min(shares.input_cpus, 1) <= max(cpus, 0.2 * workers) + 1e-6
    assert shares.threads >= 1


@pytest.mark.parametrize(("text", "meant"), [(1, (1, 1)), ("3", (3, 3)), ("1..4", (1, 4)), (0, (0, 0))])
def test_workers_are_a_number_or_a_range(text, meant):
    assert worker_range(text) == meant


@pytest.mark.parametrize("text", ["", "many", "4..1", "0..2", "1..", "-1"])
def test_other_workers_are_refused(train, text):
    with pytest.raises(UserError, match=r"MIN\.\.MAX"):
        train(workers=text).run()


@pytest.mark.parametrize("cpus", [1, 2, 4, 96])
def test_an_elastic_worker_and_its_input_fill_a_node(cpus):
    shares = share_nodes([{"CPU": cpus}, {"CPU": cpus}], 4)
    assert shares.worker_cpus + shares.input_cpus <= cpus + 1e-6
    assert cpus // shares.worker_cpus == 1  # a second one never fits in


def test_an_elastic_worker_takes_one_gpu():
    shares = share_nodes([{"CPU": 2.0}, {"CPU": 32.0, "GPU": 4.0, "object_store_memory": 2.0**34}], 4)
    assert (shares.gpu, shares.worker_cpus, shares.input_cpus, shares.store_bytes) == (True, 1.0, 7.0, 2**31)


def test_the_input_of_one_gpu_has_the_other_cores_and_half_of_the_object_store():
    shares = share_cluster([{"CPU": 16.0, "GPU": 1.0, "object_store_memory": 2.0**34}], 1)
    assert (shares.gpu, shares.worker_cpus, shares.input_cpus, shares.store_bytes) == (True, 1.0, 15.0, 2**33)
    assert Transport(cpus=15, store_bytes=2**33).in_flight(26 * 2**20) == (16, 2)  # a step of 64 at the real size


def test_where_there_is_one_cpu_for_each_gpu_trainer_and_input_share_it():
    shares = share_nodes([{"CPU": 4.0, "GPU": 4.0}], 4)
    assert (shares.worker_cpus, shares.input_cpus) == (0.5, 0.5)


def test_what_may_change_between_two_starts_is_not_reported():
    assert differences({"a": {"steps": 1, "x": 2}, "data": "p"}, {"a": {"steps": 5, "x": 3}, "data": "q"}) == [
        "a.x was 2, is 3"
    ]


def test_the_clock_counts_waiting_apart():
    def slow():
        time.sleep(0.05)
        yield []

    clock = Clock()
    for _ in clock.waits(slow()):
        time.sleep(0.05)
    assert 0.2 < clock.lap(torch.device("cpu"), 1)["waiting_for_data"] < 0.8


def test_a_gpu_that_is_too_small_is_told_with_the_estimate_and_what_to_lower():
    rows = np.arange(24)
    parts = [TrainingBatch(Batch(0, 0, 1, 0, rows, rows, 24), {})]
    message = r"24 expressions in one pass, which need about \d+\.\d GiB .*lower --micro-batch-size.*tried to allocate"
    with pytest.raises(UserError, match=message), memory_advice(micro_config(), parts, bf16=True):
        raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 2.00 GiB\nmore lines")
