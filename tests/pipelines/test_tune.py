"""Sweeps: options are read as `train` reads them, poor trials end early, and an interrupted study goes on."""

import json
from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.tracking import connect
from pipelines.train import ModelOverrides
from pipelines.tune import Range, Tune
from tests.boxes import Boxes, make_boxes
from tests.pipelines.test_train import MICRO


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
    trial = study(boxes).trial({"learning_rate": 0.5, "model.decoder_dim": 16}, "s3://b/study", "7", "parent")
    assert (trial.learning_rate, trial.model.decoder_dim, trial.model.hidden_size) == (0.5, 16, 32)
    assert (trial.out, trial.resume, trial.parent_run) == ("s3://b/study/trials/7", True, "parent")


def test_an_empty_space_is_refused(boxes):
    with pytest.raises(UserError, match="--space is empty"):
        study(boxes, space=()).run()


@pytest.mark.cluster
def test_a_study_goes_on_and_its_trials_are_children_of_one_run(ray_cluster, boxes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
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
