"""How long a training stands still after a loss: `python -m benchmarks.recovery`.

Starts `mail-ris train --preset tiny` on a local Ray and, in turn, kills with SIGKILL a train worker, and the driver,
after which the same command is given again. Printed for each: the seconds from the kill to the next optimizer step
(claim: under 90 on 2 cores), and the steps that were computed twice, which `--checkpoint-every` decides.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.scenes import make_scenes
from mail import addresses

WAIT_SECONDS = 300


class Training:
    """A running `mail-ris train`, whose JSON lines are read as they come."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self._lines.put(json.loads(line) | {"at": time.monotonic()})

    def next(self, event: str, step: int = 0) -> dict[str, Any]:
        """The next line of that event from that step on."""
        while True:
            line = self._lines.get(timeout=WAIT_SECONDS)
            if line.get("event") == event and line["step"] >= step:
                return line

    def next_step_after_a_start(self) -> dict[str, Any]:
        self.next("begun")
        return self.next("step")


def train_workers(root: int) -> list[int]:
    """Ids of the train workers below a process."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            names[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
    family = {root}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    return [p for p in family if b"RayTrainWorker" in names.get(p, b"")]


def lost(training: Training, killed: float, before: dict[str, Any]) -> dict[str, float]:
    step = training.next_step_after_a_start()
    return {
        "seconds_to_the_next_step": round(step["at"] - killed, 1),
        "steps_computed_twice": max(0, before["step"] - step["step"] + 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store, masks = make_scenes(Path(temporary), args.images)
        command = [sys.executable, "-m", "pipelines", "train", "--preset", "tiny", "--data", store, "--masks", masks]
        command += ["--name", "recovery", "--out", f"{temporary}/run", "--steps", "100000", "--no-register", "--resume"]
        command += [
            "--checkpoint-every",
            str(args.checkpoint_every),
            "--log-every",
            "1",
            "--validation-expressions",
            "0",
        ]
        environment = os.environ | {
            "MAIL_LOG_FORMAT": "json",
            "MLFLOW_TRACKING_URI": addresses.sqlite_uri(Path(temporary) / "mlflow.db"),
        }
        result: dict[str, Any] = {"benchmark": "recovery"}

        training = Training(command, environment)
        before = training.next("step", 2 * args.checkpoint_every)
        (worker,) = train_workers(training.process.pid)
        os.kill(worker, signal.SIGKILL)
        result["worker"] = lost(training, time.monotonic(), before)
        print(json.dumps(result), flush=True)

        before = training.next("step", before["step"] + 2 * args.checkpoint_every)
        training.process.kill()
        killed = time.monotonic()
        training.process.wait()
        training = Training(command, environment)
        result["driver"] = lost(training, killed, before)
        training.process.send_signal(signal.SIGINT)
        try:
            training.process.wait(60)
        except subprocess.TimeoutExpired:
            training.process.kill()
        print(json.dumps(result))


if __name__ == "__main__":
    main()
