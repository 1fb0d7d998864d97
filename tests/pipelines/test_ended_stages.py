"""Stages that are asked to end, at each of their moments: code, one line, MLflow, and nothing of theirs left alive."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from mail.training.checkpoint import find_latest
from pipelines.registry.client import connect, experiment
from tests.boxes import Boxes, make_boxes
from tests.pipelines.killing import PATIENCE, Run
from tests.pipelines.stages.test_train import MICRO

ENDS_WITHIN = 30 + 10  # the grace period, and the ten seconds of whoever asked


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Starts a stage in a folder of its own, with an MLflow of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(Run(*arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def training(boxes: Boxes, *more: str) -> list[str]:
    command = ["train", "--preset", "tiny", "--data", boxes.store_uri, "--masks", boxes.masks_uri, "--name", "run"]
    command += ["--global-batch-size", "4", "--threads", "1", "--validation-expressions", "2", "--log-every", "2"]
    command += [word for name, value in MICRO.items() for word in (f"--model.{name.replace('_', '-')}", str(value))]
    return [*command, *more]


def ask(run: Run, words: str, number: int = signal.SIGTERM, after: float = 0.0) -> str:
    """Signals a stage once it has said something, and checks what holds for every end; returns its last line."""
    deadline = time.monotonic() + PATIENCE
    while not any(words in line for line in run.said):
        assert run.process.poll() is None, run.said[-5:]
        assert time.monotonic() < deadline, run.said[-5:]
        time.sleep(0.01)
    time.sleep(after)
    below = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(number)
    begun = time.monotonic()
    while run.process.poll() is None:
        assert time.monotonic() < begun + ENDS_WITHIN, run.said[-5:]
        below += [p for p in psutil.Process(run.process.pid).children(recursive=True) if p not in below]
        time.sleep(0.05)
    assert run.wait() == 128 + number, run.said[-5:]
    assert not psutil.wait_procs(below, timeout=10)[1]
    said = "\n".join(run.said)
    assert "Traceback" not in said, said
    assert "***" not in said, said  # as the C++ of Ray begins its own
    assert run.said[-1].startswith(f"ended by {signal.Signals(number).name}"), run.said[-5:]
    return run.said[-1]


def statuses() -> set[str]:
    client = connect()
    return {run.info.status for run in client.search_runs([experiment(client)])}


def weights(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_a_training_keeps_the_step_that_it_was_asked_at(begin: Callable[..., Run], boxes: Boxes) -> None:
    run = begin(*training(boxes, "--workers", "0", "--steps", "5000", "--checkpoint-every", "1000"))
    line = ask(run, "step 1/5000")
    newest = find_latest("runs/run/checkpoints")
    assert newest is not None
    assert f"step {newest.step} of run run is kept in {newest.address}" in line
    assert line.endswith(" --resume")
    assert statuses() == {"KILLED"}


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_an_ended_training_goes_on_as_if_nothing_had_happened(
    begin: Callable[..., Run], boxes: Boxes, workers: str
) -> None:
    more = ("--steps", "120", "--checkpoint-every", "60", "--no-register", "--workers")
    assert begin(*training(boxes, *more, "0", "--out", "whole")).wait() == 0
    command = training(boxes, *more, workers)
    ask(begin(*command), "step 1/120", signal.SIGINT)
    newest = find_latest("runs/run/checkpoints")
    assert newest is not None
    assert 0 < newest.step < 120
    assert begin(*command, "--resume").wait() == 0
    torch.testing.assert_close(weights("runs/run/model"), weights("whole/model"), rtol=1e-3, atol=1e-4)


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
