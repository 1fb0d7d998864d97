"""Trainings and studies that are asked to end, at each of their moments."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from mail.training.checkpoint import find_latest
from tests.boxes import Boxes
from tests.pipelines.ended import ask, going_on, statuses, training, weights
from tests.pipelines.killing import Run


def test_a_training_keeps_the_step_that_it_was_asked_at(
    begin: Callable[..., Run], boxes: Boxes, tmp_path: Path, put_mlflow: Callable[[Path], None]
) -> None:
    put_mlflow(tmp_path / "mlflow.db")
    run = begin(*training(boxes, "--workers", "0", "--steps", "5000", "--checkpoint-every", "1000"))
    line = ask(run, "step 1/5000")
    newest = find_latest("runs/run/checkpoints")
    assert newest is not None
    assert f"step {newest.step} of run run is kept in {newest.address}" in line
    assert line.endswith(" --resume")
    assert statuses() == {"KILLED"}


@pytest.mark.soak
def test_an_ended_training_goes_on_as_if_nothing_had_happened(begin: Callable[..., Run], boxes: Boxes) -> None:
    command = training(boxes, "--steps", "120", "--checkpoint-every", "60", "--no-register", "--workers", "0")
    assert begin(*command, "--out", "whole").wait() == 0
    line = ask(begin(*command), "step 1/120", signal.SIGINT)
    newest = find_latest("runs/run/checkpoints")
    assert newest is not None
    assert 0 < newest.step < 120
    assert newest.step % 60
    assert begin(*going_on(line)).wait() == 0
    torch.testing.assert_close(weights("runs/run/model"), weights("whole/model"), rtol=0, atol=0)


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("words", "after", "kept", "status"),
    [
        ("reading ", 0.0, "", set()),
        ("sentences are read", 0.5, "nothing of the run was begun", {"KILLED"}),  # MLflow, then Ray starts
        ("sentences are read", 8.0, "nothing of the run was begun", {"KILLED"}),
        ("starting 1 worker(s)", 0.0, "nothing of the run was begun", {"KILLED"}),
        ("starting 1 worker(s)", 4.0, "nothing of the run was begun", {"KILLED"}),
        ("validation oIoU", 0.0, "is kept in", {"KILLED"}),
        ("registering the model", 0.0, "is finished, its model is", {"FINISHED"}),
    ],
)
def test_a_training_on_ray_ends_at_every_moment(
    begin: Callable[..., Run], boxes: Boxes, words: str, after: float, kept: str, status: set[str]
) -> None:
    line = ask(begin(*training(boxes, "--workers", "1", "--steps", "40")), words, after=after)
    assert kept in line
    assert statuses() <= status


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_study_ends_with_its_trials(begin: Callable[..., Run], boxes: Boxes, number: int) -> None:
    command = training(boxes, "--steps", "4000", "--space", "seed=1,2,3", "--trials", "3", "--trial-cpus", "0.5")
    line = ask(begin("tune", *command[1:]), "trials of at most", number, after=25)
    assert line.endswith(" --resume")
    assert statuses() == {"KILLED"}


@pytest.mark.soak
@pytest.mark.cluster
def test_a_second_request_ends_ray_as_well(begin: Callable[..., Run], boxes: Boxes) -> None:
    run = begin(*training(boxes, "--workers", "1", "--steps", "5000"))
    while not any("step 1/" in line for line in run.said):
        assert run.process.poll() is None, run.said[-5:]
        time.sleep(0.05)
    below = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    run.process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert run.wait() == 130
    assert time.monotonic() - begun < 3
    assert not psutil.wait_procs(below, timeout=10)[1]


@pytest.mark.soak
@pytest.mark.parametrize("count", [3])
def test_first_trainings_at_the_same_moment_all_work(begin: Callable[..., Run], boxes: Boxes, count: int) -> None:
    command = training(boxes, "--workers", "0", "--steps", "2")
    command.remove("run")
    command.remove("--name")
    runs = [begin(*command, "--name", f"run-{n}") for n in range(count)]
    assert [run.wait() for run in runs] == [0] * count, [run.said[-2:] for run in runs]
    assert statuses() == {"FINISHED"}
