"""Killed anywhere, a run goes on: SIGKILL at random moments, most of them within the writing of a checkpoint."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.local_head import free_ports
from mail.training.checkpoint import find_latest
from mail.training.step import train_step
from pipelines.registry import run_log
from pipelines.registry.client import connect
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.boxes import Boxes, make_boxes
from tests.pipelines.stages.test_train import MICRO, SAMPLES, pictures, weights
from tests.pipelines.two_nodes import end
from tests.s3 import BUCKET, s3_server

pytestmark = pytest.mark.cluster

STEPS = 60
KILLS = 3


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


def stage(boxes: Boxes, **changes: Any) -> Train:
    values = {"preset": "tiny", "data": boxes.store_uri, "masks": boxes.masks_uri, "workers": 0, "steps": STEPS}
    values |= {"global_batch_size": 4, "checkpoint_every": 1, "log_every": 1, "threads": 1, "register": False}
    values |= {"validation_expressions": 2, "name": "run"}
    return Train(model=ModelOverrides(**MICRO), **(values | changes))


def train_in_a_child(folder: str, environment: dict[str, str], train: Train) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    train.run()


@pytest.fixture
def place(request, tmp_path, monkeypatch, put_mlflow) -> Iterator[str]:
    """Folder for runs: on the disk, or on an S3 server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    put_mlflow(tmp_path / "mlflow.db")
    if request.param == "disk":
        yield "runs"
    else:
        with s3_server():
            yield f"s3://{BUCKET}/runs"


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.soak)], indirect=True)
def test_kills_at_random_moments_change_nothing(place, boxes, tmp_path):
    whole = stage(boxes, out="whole", name="whole", checkpoint_every=STEPS).run()

    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.pipelines.training.test_kills", "pipelines.training.worker", "mail.training.run_plan"]
    )
    environment = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "MLFLOW_"))}
    train = stage(boxes, out=f"{place}/run", resume=True)
    delays, reached = random.Random(0), 0
    for _ in range(KILLS):
        child = context.Process(target=train_in_a_child, args=(str(tmp_path), environment, train))
        child.start()
        deadline = time.monotonic() + 120
        while newest(place) == reached and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(delays.uniform(0, 0.6))
        child.kill()
        child.join()
        before, reached = reached, newest(place)
        assert reached >= max(before, 1)  # what was there once, or something newer, always is
    assert reached < STEPS, "the kills came too late to show anything"

    ended = train.run()
    remote = ended["model"].startswith("s3://")
    assert remote == (place != "runs")
    assert ended["last"] == whole["last"]
    if not remote:
        assert weights(ended["model"]) == weights(whole["model"])
    losses = [connect().get_metric_history(r["run_id"], "train/loss") for r in (ended, whole)]
    assert [m.step for m in losses[0]] == list(range(1, STEPS + 1))
    assert [m.value for m in losses[0]] == [m.value for m in losses[1]]
    runs = connect().search_runs([connect().get_run(ended["run_id"]).info.experiment_id])
    assert len(runs) == 2


def newest(place: str) -> int:
    found = find_latest(f"{place}/run/checkpoints")
    return found.step if found else 0


class MLflow:
    """A real MLflow server that can be ended and started again on the same port and store."""

    def __init__(self, folder: Path):
        self._folder, (self._port,) = folder, free_ports(1)
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        store = f"sqlite:///{self._folder}/server.db"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(self._port)]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"]
        with open(self._folder / "server.log", "a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.3)
        raise AssertionError((self._folder / "server.log").read_text()[-2000:])

    def end(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> Iterator[MLflow]:
    monkeypatch.chdir(tmp_path)
    server = MLflow(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    try:
        yield server
    finally:
        server.end()


@pytest.mark.soak
def test_a_server_that_was_away_in_the_middle_misses_nothing(mlflow, boxes, monkeypatch, capsys):
    monkeypatch.setattr(run_log, "RETRY_SECONDS", 0.5)
    monkeypatch.setenv("MAIL_LOG_FORMAT", "json")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    train = stage(boxes, out="run", steps=90, checkpoint_every=30, validation_expressions=6)
    results: list[dict] = []
    thread = threading.Thread(target=lambda: results.append(train.run()))
    thread.start()
    said = ""

    def wait_for(text: str) -> None:
        nonlocal said
        deadline = time.monotonic() + 120
        while text not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.05)
        assert text in said

    wait_for("train from step 0 on")
    mlflow.end()
    wait_for("the training goes on, I try again")
    wait_for('"step": 90')  # it ended without the server
    mlflow.start()
    thread.join(300)
    assert results, said
    client = connect()
    run = client.get_run(results[0]["run_id"])
    assert results[0]["recorded"]
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 91))
    assert [m.step for m in client.get_metric_history(run.info.run_id, "validation/oIoU")] == [30, 60, 90]
    assert set(pictures(run.info.run_id)) == {(key, step) for key in SAMPLES for step in (30, 60, 90)}
    assert json.loads(json.dumps(run.data.params))["recipe.steps"] == "90"


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_server_that_was_away_for_five_minutes_misses_nothing(mlflow, boxes, monkeypatch):
    away, steps, every = 300, 700, 50

    def slow_step(*values: Any, **named: Any) -> torch.Tensor:
        time.sleep(0.6)  # a step of a larger network, so that the run is still in its middle afterwards
        return train_step(*values, **named)

    monkeypatch.setattr("pipelines.training.worker.train_step", slow_step)
    reached: list[tuple[float, float]] = []
    train = stage(boxes, out="run", steps=steps, checkpoint_every=every, validation_expressions=6, log_every=5)
    results: list[dict] = []
    thread = threading.Thread(
        target=lambda: results.append(train.run(lambda record: reached.append((record["step"], time.monotonic()))))
    )
    thread.start()

    def wait_for(step: float) -> None:
        deadline = time.monotonic() + 600
        while (not reached or reached[-1][0] < step) and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert reached[-1][0] >= step

    wait_for(every)
    gone = time.monotonic()
    mlflow.end()
    time.sleep(away)
    back = time.monotonic()
    mlflow.start()
    meanwhile = [step for step, at in reached if gone < at < back]
    assert len(meanwhile) >= 3, "the training did not go on"
    assert reached[-1][0] < steps, "the training ended too early to show anything"
    thread.join(600)

    assert results
    assert results[0]["recorded"]
    client = connect()
    run = client.get_run(results[0]["run_id"])
    assert run.info.status == "FINISHED"
    for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/expressions_seen"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, key)] == list(range(1, steps + 1)), key
    laps = [m.step for m in client.get_metric_history(run.info.run_id, "speed/images_per_second")]
    assert laps == [1, *range(5, steps + 1, 5)]
    validations = [m.step for m in client.get_metric_history(run.info.run_id, "validation/oIoU")]
    assert validations == list(range(every, steps + 1, every))
    shown = [step for step in validations if step % (2 * every) == 0]  # about ten sets in the run
    assert set(pictures(run.info.run_id)) == {(key, step) for key in SAMPLES for step in shown}
    assert run.data.params["recipe.steps"] == str(steps)
    assert run.inputs.dataset_inputs[0].dataset.digest == boxes.store.digest[:36]
    assert run.data.tags["model"].endswith("run/model")
