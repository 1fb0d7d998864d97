"""Stages in processes of their own, whose driver, workers and raylet can be killed, and a reader that never stops."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mail.data.mask_table import MaskTable

PATIENCE = 240  # seconds for anything on a busy machine


class Run:
    """One run of `mail-ris ...`, or another program, until it ends or is made to.

    Args:
        cluster: variables of the Ray to join, instead of one of its own.
        within: a command that starts it (`prlimit ...`), and becomes it.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        cluster: dict[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "pipelines"),
        within: Sequence[str] = (),
    ):
        clean = {k: v for k, v in (environment or dict(os.environ)).items() if not k.startswith("RAY_")}
        with hearing():
            self.process = subprocess.Popen(
                [*within, sys.executable, *program, *arguments],
                env=clean | (cluster or {}),
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._seen: set[int] = set()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(line.rstrip() for line in self.process.stderr)

    @property
    def pending(self) -> int | None:
        """How many images this run said it would compute; None if it did not get that far."""
        found = [m for line in self.said if (m := re.match(r"(\d+) of \d+ images are pending", line))]
        return int(found[0][1]) if found else None

    def processes(self, kind: str) -> list[int]:
        """Living process ids: `driver`, `worker` (any of Ray's that run our code) or `raylet`."""
        if kind == "driver":
            return [self.process.pid] if self.process.poll() is None else []
        below = _below(self.process.pid)
        self._seen |= set(below)
        return [pid for pid, name in below.items() if name.startswith("ray::" if kind == "worker" else "raylet")]

    def kill(self, kind: str, choose: Callable[[list[int]], int] = lambda found: found[0]) -> bool:
        """SIGKILL for one process of a kind; whether there was one."""
        self.processes("worker")  # notes what has to be gone in the end
        found = self.processes(kind)
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(choose(found), signal.SIGKILL)
        return True

    def wait(self) -> int:
        """The exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        """Ends what is left of it, however the test ended."""
        self.processes("worker")
        for pid in [self.process.pid, *self._seen]:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.process.pid:  # still ours, not another that took over the number
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def hearing() -> Iterator[None]:
    """Whoever tests under `nohup` has SIGHUP ignored, and so would what is started."""
    heard = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, heard)


def precompute(store: str, proposer: str, masks: str, *more: str, environment: dict[str, str] | None = None) -> Run:
    command = ("precompute", "--data", store, "--proposer", proposer, "--masks", masks)
    return Run(*command, *more, environment=environment)


def wait_for(condition: Callable[[], bool], run: Run | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert run is None or run.process.poll() is None, "it ended before that: " + "\n".join(run.said[-5:])
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(masks: str | Path) -> Counter[str]:
    """Rows by image id, as a reader that starts now sees them."""
    table = MaskTable(masks)
    if table.head().version == 0:
        return Counter()
    return Counter(r["image_id"] for r in table.snapshot().rows(["image_id"]))


def computed_rows(masks: str | Path) -> int:
    """Rows that commits added since the table began: more than it has if an image was committed twice."""
    log = MaskTable(masks).log
    states = [log.at(version) for version in range(log.head().version + 1)]
    return sum(
        file.rows
        for before, after in itertools.pairwise(states)
        for path, file in after.files.items()
        if path not in before.files
    )


@contextlib.contextmanager
def always_read(masks: str | Path) -> Iterator[None]:
    """Reads the whole table over and over meanwhile; fails if any reading failed, or found an image twice or gone."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        before: Counter[str] = Counter()
        try:
            while not ended.wait(0.05):
                found = rows(masks)
                assert set(found.values()) <= {1}, "an image has several rows"
                assert not before - found, "a committed row is gone"
                before = found
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not failures, failures


def _below(pid: int) -> dict[int, str]:
    """Names of all processes below one, by id."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = path.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            parents[int(number)], names[int(number)] = int(fields.split()[1]), name
    found: dict[int, str] = {}
    for candidate, name in names.items():
        above = candidate
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and candidate != pid:
            found[candidate] = name
    return found
