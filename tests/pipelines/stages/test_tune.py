"""Sweeps: options are read as `train` reads them, poor trials end early, and an interrupted study goes on."""

import json
from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.registry.client import connect, experiment
from pipelines.stages.tune import Tune
from pipelines.training.config import ModelOverrides
from pipelines.training.space import Range
from pipelines.training.study import trial_config
from tests.boxes import Boxes, make_boxes
from tests.pipelines.killing import Run, wait_for
from tests.pipelines.stages.test_train import MICRO


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.mark.parametrize(
    ("text", "option", "kind", "choices"),
    [
        ("learning-rate=log:1e-4:1e-2", "learning_rate", "log", (1e-4, 1e-2)),
        ("--steps=10:20", "steps", "uniform", (10, 20)),
        ("model.decoder-dim=16,24", "model.decoder_dim", "choice", (16, 24)),
        ("proposals=table,none", "proposals", "choice", ("table", "none")),
        ("model.paste=true,false", "model.paste", "choice", (True, False)),
        ("seed=1,2,3", "seed", "choice", (1, 2, 3)),
        ("preset=tiny,vilt-b32", "preset", "choice", ("tiny", "vilt-b32")),
    ],
)
def test_a_range_has_the_values_that_train_would_read(text, option, kind, choices):
    assert Range.parse(text) == Range(option, kind, choices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning-rte=1,2", "did you mean learning_rate"),
        ("learning-rate", "write OPTION=A,B,C"),
        ("learning-rate=fast,slow", "'fast' is no value of learning_rate"),
        ("learning-rate=1:0.1", "the lower one first"),
        ("learning-rate=log:0:1", "begins above 0"),
        ("learning-rate=exp:1:2", "a range is LOW:HIGH"),
        ("name=a,b", "no option name"),
    ],
)
def test_what_is_no_range_is_said(text, message):
    with pytest.raises(UserError, match=message):
        Range.parse(text)


def study(boxes: Boxes, **changes: object) -> Tune:
    values = {"preset": "tiny", "data": boxes.store_uri, "masks": boxes.masks_uri, "name": "study", "trials": 3}
    values |= {"space": ("learning-rate=log:1e-4:1e-2", "model.decoder-dim=8,16"), "steps": 8, "checkpoint_every": 2}
    values |= {"global_batch_size": 8, "threads": 1, "validation_expressions": 6, "trial_cpus": 0.5}
    return Tune(model=ModelOverrides(**MICRO), **(values | changes))


def test_a_trial_is_a_run_of_train_with_its_own_options(boxes):
    trial = trial_config(study(boxes), {"learning_rate": 0.5, "model.decoder_dim": 16}, "s3://b/study", "7", "parent")
    assert (trial.learning_rate, trial.model.decoder_dim, trial.model.hidden_size) == (0.5, 16, 32)
    assert (trial.out, trial.resume, trial.parent_run) == ("s3://b/study/trials/7", True, "parent")


def test_an_empty_space_is_refused(boxes):
    with pytest.raises(UserError, match="--space is empty"):
        study(boxes, space=()).run()


@pytest.mark.cluster
def test_a_study_goes_on_and_its_trials_are_children_of_one_run(ray_cluster, boxes, tmp_path, monkeypatch, put_mlflow):
    monkeypatch.chdir(tmp_path)
    put_mlflow(tmp_path / "mlflow.db")
    result = study(boxes).run()
    assert len(result["results"]) == 3
    assert result["best"]["score"] == max(r["score"] for r in result["results"] if r["score"] is not None)
    client = connect()
    experiment = client.get_run(result["run_id"]).info.experiment_id
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{result['run_id']}'")
    assert len(children) == 3
    assert {c.info.status for c in children} == {"FINISHED"}
    rates = {float(c.data.params["recipe.learning_rate"]) for c in children}
    assert rates == {r["options"]["learning_rate"] for r in result["results"]}

    with pytest.raises(UserError, match="go on with --resume"):
        study(boxes).run()
    with pytest.raises(UserError, match="cannot go on with another trials"):
        study(boxes, trials=4, resume=True).run()
    again = study(boxes, resume=True).run()
    assert again["run_id"] == result["run_id"]
    assert again["best"] == result["best"]
    assert len(client.search_runs([experiment])) == 4
    assert json.loads(Path("runs/study/study.json").read_text())["best"]["trial"] == result["best"]["trial"]


@pytest.mark.cluster
@pytest.mark.soak
def test_a_trial_with_a_wrong_input_is_told_and_not_started_again(ray_cluster, boxes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = study(boxes, space=("model.hidden-size=32,33",), trials=4, steps=2).run()
    widths = {r["options"]["model.hidden_size"]: r for r in result["results"]}
    assert widths[32]["score"] is not None
    assert widths[33]["score"] is None
    assert widths[33]["error"].startswith("this network cannot be")  # told by the trial; Ray Tune saw no failure
    assert not Path(widths[33]["folder"]).exists()


@pytest.mark.cluster
@pytest.mark.soak
def test_a_study_whose_driver_was_killed_goes_on_with_the_same_command(boxes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    trials, steps = 3, 40
    command = ["tune", "--name", "study", "--trials", str(trials), "--space", "learning-rate=log:1e-4:1e-2"]
    command += ["--preset", "tiny", "--data", boxes.store_uri, "--masks", boxes.masks_uri, "--steps", str(steps)]
    command += ["--checkpoint-every", "10", "--global-batch-size", "8", "--validation-expressions", "6", "--grace", "1"]
    command += ["--threads", "1", "--concurrent", "1", "--resume"]
    command += [x for k, v in MICRO.items() for x in (f"--model.{k.replace('_', '-')}", str(v))]

    def states() -> list[dict]:
        return [json.loads(path.read_text()) for path in tmp_path.glob("runs/study/trials/*/run.json")]

    def in_the_middle() -> bool:
        begun = [s["name"].removeprefix("study-") for s in states() if not s["finished"]]
        saved = [t for t in begun if list(tmp_path.glob(f"runs/study/trials/{t}/checkpoints/*/step-*"))]
        return bool(saved) and any(s["finished"] for s in states())

    first = Run(*command)
    try:
        wait_for(in_the_middle, first)
        first.kill("driver")
    finally:
        first.close()
    finished = [s["run_id"] for s in states() if s["finished"]]
    assert 1 <= len(finished) < trials, "the kill came too late to show anything"
    ends = {run_id: connect().get_run(run_id).info.end_time for run_id in finished}

    again = Run(*command)
    try:
        assert again.wait() == 0, "\n".join(again.said[-20:])
    finally:
        again.close()
    client = connect()
    study = json.loads((tmp_path / "runs/study/study.json").read_text())
    assert len({r["trial"] for r in study["results"]}) == trials
    runs = client.search_runs([experiment(client)])
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == study["run_id"]]
    assert len(runs) == 1 + trials  # one parent, and no child twice
    assert {c.info.run_name for c in children} == {f"study-{r['trial']}" for r in study["results"]}
    assert {c.info.status for c in children} == {"FINISHED"}
    assert all((Path(r["folder"]) / "model/model.safetensors").exists() for r in study["results"])
    for child in children:  # a trial that went on has one unbroken curve
        steps_of = [m.step for m in client.get_metric_history(child.info.run_id, "train/loss")]
        assert steps_of == list(range(1, steps + 1))
    assert {run_id: client.get_run(run_id).info.end_time for run_id in finished} == ends  # not trained again
