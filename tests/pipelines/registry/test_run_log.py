"""The record of a run on a real SQLite store: nothing twice, nothing lost, nobody held up."""

import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from mail import addresses
from mail.errors import UserError
from pipelines.registry import client, run_log
from pipelines.registry.dead_runs import DRIVER_TAG, driver
from pipelines.registry.run_log import RunLog, flatten, start_run


@pytest.fixture(scope="module")
def store(tmp_path_factory, put_mlflow) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    put_mlflow(folder / "mlflow.db")
    return folder


@pytest.fixture
def mlflow_here(store, monkeypatch) -> Path:
    monkeypatch.chdir(store)
    return store


def test_curves_are_logged_once_though_steps_come_again(mlflow_here):
    run_id = start_run("again", {"recipe": {"steps": 4}}, {"leaky": "false"})
    first = RunLog(run_id)
    first.metrics([{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)])
    assert first.close()
    assert start_run("again", {}, {}, run_id) == run_id
    second = RunLog(run_id)
    second.metrics([{"step": s, "loss": 1.0 / s} for s in (2, 3, 4)])
    assert second.close()
    found = client.connect()
    assert [m.step for m in found.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]
    assert found.get_run(run_id).data.params["recipe.steps"] == "4"
    assert found.get_run(run_id).info.status == "FINISHED"


def test_a_run_whose_id_was_lost_is_found_by_its_key(mlflow_here):
    first = start_run("lost", {"a": 1}, {}, key="0123")
    assert start_run("lost", {"a": 1}, {}, key="0123") == first
    assert start_run("lost", {"a": 1}, {}, key="4567") != first


def test_what_is_sent_twice_is_stored_once(mlflow_here):
    log = RunLog(start_run("twice", {}, {}))
    record = {"step": 1, "time": 1700000000.5, "loss": 0.5}
    log.metrics([record])
    log._queue.put(log._logged.clear)  # the answer was lost: it does not know that the store has it
    log.metrics([record])
    assert log.close()
    (point,) = client.connect().get_metric_history(log.run_id, "train/loss")
    assert (point.step, point.timestamp) == (1, 1700000000500)


def test_a_curve_that_lacks_its_last_step_gets_it(mlflow_here):
    run_id = start_run("half", {}, {})
    first = RunLog(run_id)
    first.metrics([{"step": 1, "loss": 0.5, "rate": 1.0}])
    first.metrics([{"step": 2, "loss": 0.4}])  # cut off between two of the step's figures
    first.close()
    second = RunLog(run_id)
    second.metrics([{"step": 1, "loss": 0.5, "rate": 1.0}, {"step": 2, "loss": 0.4, "rate": 0.9}])
    second.close()
    for key in ("train/loss", "train/rate"):
        assert [m.step for m in client.connect().get_metric_history(run_id, key)] == [1, 2]


@pytest.mark.cluster
def test_a_store_that_is_away_loses_nothing_and_holds_nobody_up(mlflow_here, monkeypatch):
    monkeypatch.setattr(run_log, "RETRY_SECONDS", 0.1)
    said: list[str] = []
    log = RunLog(start_run("away", {}, {}), said.append)
    log.metrics([{"step": 0, "loss": 0.7}])
    while not client.connect().get_metric_history(log.run_id, "train/loss"):
        time.sleep(0.1)
    with sqlite3.connect(mlflow_here / "mlflow.db", isolation_level=None) as rival:
        rival.execute("BEGIN EXCLUSIVE")  # nobody else can write, nor read
        before = time.monotonic()
        log.metrics([{"step": 1, "loss": 0.5}])
        assert time.monotonic() - before < 0.05
        while not said:
            time.sleep(0.1)
        rival.execute("ROLLBACK")
    assert log.close()
    assert [m.step for m in client.connect().get_metric_history(log.run_id, "train/loss")] == [0, 1]
    assert ["does not answer" in said[0], "is back" in said[-1]] == [True, True]


def test_nested_config_is_flat():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_a_deleted_run_is_not_recorded_and_goes_on_in_a_new_one(mlflow_here):
    found, said = client.connect(), []
    run_id = start_run("deleted", {"a": 1}, {}, key="d0")
    log = RunLog(run_id, said.append)
    found.delete_run(run_id)
    log.metrics([{"step": 1, "loss": 0.5}])
    assert not log.close()
    assert "refuses the run's record" in said[0]
    assert len(said) == 1
    again = start_run("deleted", {"a": 1}, {}, run_id, key="d0")
    assert again != run_id
    assert found.get_run(again).data.params == {"a": "1"}
    found.restore_run(run_id)
    assert start_run("deleted", {}, {}, run_id, key="d0") == run_id


def test_files_that_are_not_taken_hold_up_no_figures(mlflow_here, monkeypatch):
    run_id, said = start_run("files", {}, {}), []
    artifacts = Path(addresses.local_path(client.connect().get_run(run_id).info.artifact_uri))
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text("a file where a folder should be")
    log = RunLog(run_id, said.append)
    log.text("words", "words.txt")
    log.metrics([{"step": 1, "loss": 0.5}])
    assert not log.close()
    assert [m.step for m in client.connect().get_metric_history(run_id, "train/loss")] == [1]
    assert client.connect().get_run(run_id).info.status == "FINISHED"
    assert "does not have 1 file" in said[-1]


def test_a_run_of_a_killed_process_is_ended_by_the_next_start(mlflow_here):
    found, dead = client.connect(), subprocess.Popen(["sleep", "60"])
    killed, living, elsewhere = (start_run(name, {}, {}) for name in ("killed", "living", "elsewhere"))
    found.set_tag(killed, DRIVER_TAG, driver(dead.pid))
    found.set_tag(elsewhere, DRIVER_TAG, driver(dead.pid).replace('"seen": "', '"seen": "another machine '))
    start_run("next", {}, {})
    assert found.get_run(killed).info.status == "RUNNING"  # its process lives
    dead.kill()
    dead.wait()
    start_run("living", {}, {}, living)  # one that goes on counts as a start
    assert [found.get_run(r).info.status for r in (killed, living, elsewhere)] == ["KILLED", "RUNNING", "RUNNING"]


def test_a_deleted_experiment_is_restored_by_the_command_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_id, found = start_run("before", {}, {}), client.connect()
    found.delete_experiment(client.experiment(found))
    with pytest.raises(UserError, match="mlflow experiments restore") as refused:
        start_run("after", {}, {})
    found.restore_experiment(str(refused.value).rstrip("`").split("--experiment-id ")[1])  # what the command does
    assert start_run("before", {}, {}, run_id) == run_id
