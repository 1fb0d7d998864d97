"""Stages that are asked to end: what holds for every end, whichever the stage and the moment."""

import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from pipelines.registry.client import connect, experiment
from tests.boxes import Boxes
from tests.pipelines.killing import PATIENCE, Run
from tests.pipelines.stages.test_train import MICRO

ENDS_WITHIN = 30 + 10  # the grace period, and the ten seconds of whoever asked
# what Ray's controller says, with its trace, of a machine that is busy when a training starts
BUSY = re.compile(r"[^\n]*Failed to send resource request for .*? safe to ignore .*?GetTimeoutError[^\n]*", re.S)


def ask(run: Run, moment: str | Callable[[], bool], number: int = signal.SIGTERM, after: float = 0.0) -> str:
    """Signals a stage once it has said something, or has come to something, and checks what holds for every end.

    Returns:
        Its last line.
    """
    wait_for(run, moment)
    time.sleep(after)
    below = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(number)
    begun = time.monotonic()
    while run.process.poll() is None:
        assert time.monotonic() < begun + ENDS_WITHIN, run.said[-5:]
        below += [p for p in psutil.Process(run.process.pid).children(recursive=True) if p not in below]
        time.sleep(0.05)
    code = run.wait()
    assert code == 128 + number, (code, run.said[-5:])
    assert not psutil.wait_procs(below, timeout=10)[1]
    said = BUSY.sub("", "\n".join(run.said))
    assert "Traceback" not in said, said
    assert "***" not in said, said  # as the C++ of Ray begins its own
    assert run.said[-1].startswith(f"ended by {signal.Signals(number).name}"), run.said[-5:]
    return run.said[-1]


def wait_for(run: Run, moment: str | Callable[[], bool]) -> None:
    def is_there() -> bool:
        return any(moment in line for line in run.said) if isinstance(moment, str) else moment()

    deadline = time.monotonic() + PATIENCE
    while not is_there():
        assert run.process.poll() is None, run.said[-5:]
        assert time.monotonic() < deadline, run.said[-5:]
        time.sleep(0.01)


def going_on(line: str) -> list[str]:
    """The arguments of the command that the last line names."""
    program, *arguments = shlex.split(line.partition("; to go on: ")[2])
    assert program == "mail-ris"
    return arguments


def training(boxes: Boxes, *more: str) -> list[str]:
    command = ["train", "--preset", "tiny", "--data", boxes.store_uri, "--masks", boxes.masks_uri, "--name", "run"]
    command += ["--global-batch-size", "4", "--threads", "1", "--validation-expressions", "2", "--log-every", "2"]
    command += [word for name, value in MICRO.items() for word in (f"--model.{name.replace('_', '-')}", str(value))]
    return [*command, *more]


def statuses() -> set[str]:
    """Of all runs in MLflow."""
    client = connect()
    return {run.info.status for run in client.search_runs([experiment(client)])}


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")
