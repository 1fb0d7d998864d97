"""Stages on a cluster that is not theirs, asked to end: the cluster goes on, and nothing of theirs is alive on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from cluster import local_head
from mail.data.scenes.layout import write_published_layout
from mail.proposers.folder import ProposerFolder
from mail.training.checkpoint import find_latest
from tests.boxes import Boxes
from tests.pipelines.ended import ask, going_on, statuses, training, weights
from tests.pipelines.killing import PATIENCE, Run

pytestmark = [pytest.mark.soak, pytest.mark.cluster, pytest.mark.timeout(900)]

# what Ray keeps for the jobs to come: each node's agents, and one detached actor for the whole cluster
OF_THE_CLUSTER = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Cluster:
    """A running head: how a stage joins it, and how jobs are sent to it."""

    joins: dict[str, str]
    jobs: dict[str, str]
    process: psutil.Process
    logs: Path

    def at_work(self) -> list[str]:
        """What of any job is alive on it: actors and tasks, not the processes that wait for some."""
        names = []
        for process in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # gone meanwhile, or a zombie
                names.append(" ".join(process.cmdline()).strip())
        return [n for n in names if n.startswith("ray::") and not n.startswith(OF_THE_CLUSTER)]

    def is_left(self) -> bool:
        """Whether nothing is at work 10 s from now, or earlier."""
        deadline = time.monotonic() + 10
        while self.at_work() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.at_work()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What `make ray-up` starts, on two CPUs."""
    token = tmp_path_factory.mktemp("head") / "ray-token"
    head = local_head.start(token, "--num-cpus=2", f"--object-store-memory={300 * 2**20}")
    port = next(word for word in head.process.cmdline() if word.startswith("--port=")).removeprefix("--port=")
    others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    try:
        joins, logs = head.variables | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, head.folder / "ray/session_latest/logs"
        yield Cluster(joins, others | head.variables, head.process, logs)
    finally:
        head.end()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_ended_training_goes_on_as_if_nothing_had_happened(
    begin: Callable[..., Run], boxes: Boxes, cluster: Cluster, workers: str
) -> None:
    more = ("--steps", "120", "--checkpoint-every", "60", "--no-register", "--workers", workers)
    command = training(boxes, *more)
    line = ask(begin(*command, cluster=cluster.joins), "step 1/120", signal.SIGINT)
    assert cluster.is_left(), cluster.at_work()
    assert statuses() == {"KILLED"}
    newest = find_latest("runs/run/checkpoints")
    assert newest is not None
    assert 0 < newest.step < 120
    assert f"step {newest.step} of run run is kept" in line
    again = begin(*going_on(line), cluster=cluster.joins)
    assert again.wait() == 0, again.said[-5:]
    whole = begin(*command, "--out", "whole", cluster=cluster.joins)
    assert whole.wait() == 0, whole.said[-5:]
    torch.testing.assert_close(weights("runs/run/model"), weights("whole/model"), rtol=0, atol=0)


def test_an_ended_training_of_a_proposer_goes_on_from_its_step(
    begin: Callable[..., Run], cluster: Cluster, tmp_path: Path
) -> None:
    write_published_layout(tmp_path / "scenes", 30, seed=5)
    command = ["train-proposer", "--instances", "scenes/synthetic/instances.json", "--out", "proposer"]
    command += ["--images", "scenes/images/train2014", "--namespace", "synthetic/0", "--holdout-fraction", "0.2"]
    command += ["--steps", "40", "--batch-size", "2"]
    line = ask(begin(*command, cluster=cluster.joins), "step 1/40")
    assert cluster.is_left(), cluster.at_work()
    newest = find_latest("proposer/training")
    assert newest is not None
    assert f"step {newest.step} of the proposer is kept in {newest.address}" in line
    again = begin(*going_on(line), cluster=cluster.joins)
    assert again.wait() == 0, again.said[-5:]
    assert f"continuing the unfinished training in {tmp_path / 'proposer'}" in again.said
    assert not any("step 1/40" in said for said in again.said)
    assert ProposerFolder.read("proposer").training["steps"] == 40


def test_a_job_that_is_stopped_keeps_its_step(
    begin: Callable[..., Run], boxes: Boxes, cluster: Cluster, repository: Path, tmp_path: Path
) -> None:
    def ray(*command: str) -> str:
        ran = subprocess.run(
            [RAY, "job", *command], cwd=repository, env=cluster.jobs, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    variables = {"env_vars": {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "HF_HUB_OFFLINE": "1"}}
    given = ("--working-dir", ".", "--runtime-env-json", json.dumps(variables), "--submission-id", "stopped")
    run = tmp_path / "run"
    command = training(boxes, "--workers", "1", "--steps", "5000", "--checkpoint-every", "1000", "--out", str(run))
    ray("submit", "--no-wait", *given, "--", "python", "-m", "pipelines", *command)
    log, deadline = cluster.logs / "job-driver-stopped.log", time.monotonic() + PATIENCE
    while not log.exists() or "step 1/5000" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    ray("stop", "stopped")
    said = log.read_text()
    assert "Job 'stopped' was stopped" in ray("status", "stopped")
    assert cluster.is_left(), cluster.at_work()
    newest = find_latest(str(run / "checkpoints"))
    assert newest is not None
    line = next(line for line in said.splitlines() if line.startswith("ended by SIGTERM: "))
    assert f"step {newest.step} of run run is kept in {newest.address}" in line
    assert going_on(line) == [*command, "--resume"]
    assert "Traceback" not in said
    assert "***" not in said
    assert statuses() == {"KILLED"}
