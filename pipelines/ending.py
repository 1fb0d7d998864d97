"""Ending on request: Ctrl-C (SIGINT), SIGTERM (Slurm, Kubernetes, `ray job stop`) and SIGHUP (a terminal that is gone).

    with owned():            # in `pipelines.__main__`: the three signals are ours
        with postponed():    # around what is to be brought to a good end first
            ...              # and asks `requested()` now and then

The first one raises `EndRequested` in the main thread: at once, or at the end of the outermost `postponed` block, or
when the grace period is over, whichever comes first. A second one, or a clean-up that takes too long, ends the process
and all that it has started at once; a thread sees to that, for the main one may be deep in a library.

Python tells only the main thread of a signal, and what is ignored from the start (`nohup`) stays ignored.
"""

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 30.0
CLEAN_UP_SECONDS = 7.0  # from the exception on; whoever asked counts to ten
JOB_PATIENCE = "RAY_JOB_STOP_WAIT_TIME_S"  # what `ray job stop` reads where Ray was started
Result = TypeVar("Result")


class EndRequested(KeyboardInterrupt):
    """The process was asked to end. A KeyboardInterrupt, which no library takes for an error of its own.

    Attributes:
        signal: that asked. kept: what was saved, for the person.
        flags: what the same command needs to go on. without: what it had, and would begin anew with.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)
        self.kept = ""
        self.flags: tuple[str, ...] = ()
        self.without: tuple[str, ...] = ()

    def advice(self, arguments: Sequence[str]) -> str:
        """One line: what is kept, and the command that goes on."""
        same = [word for word in arguments if word not in self.without]
        command = shlex.join(["mail-ris", *same, *(flag for flag in self.flags if flag not in same)])
        kept = f": {self.kept}" if self.kept else ""
        return f"ended by {self.signal.name}{kept}; to go on: {command}"


class _Requests:
    """What was asked for so far, in this process."""

    def __init__(self) -> None:
        self.owned = False
        self.grace = 0.0
        self.first: int | None = None
        self.raised = False
        self.postponed = 0
        self.latest = float("inf")  # when the watching thread ends everything, on the monotonic clock
        self.folders: list[Path] = []
        self.taken: list[signal.Signals] = []

    def take(self) -> None:
        for number in self.taken:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_alarm)

    def end(self) -> None:
        """Raises what was asked for; once, for the clean-up must not be interrupted."""
        assert self.first is not None
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.raised, self.latest = True, time.monotonic() + CLEAN_UP_SECONDS
        raise EndRequested(self.first)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.first is not None:
            return  # the watching thread ends it
        self.first = number
        if not self.postponed:
            self.end()
        self.latest = time.monotonic() + self.grace + CLEAN_UP_SECONDS
        signal.setitimer(signal.ITIMER_REAL, max(self.grace, 1e-3))
        name, more = signal.Signals(number).name, "a second one ends it at once"
        with contextlib.suppress(OSError):  # not `print`: this may interrupt one
            os.write(2, f"{name}: ending, within {self.grace:g} s ({more})\n".encode())

    def _on_alarm(self, _: int, __: FrameType | None) -> None:
        if self.first is not None and not self.raised:
            self.end()


_requests = _Requests()


@contextlib.contextmanager
def owned() -> Iterator[None]:
    """The signals are this module's within the block, in the main thread of the process."""
    global _requests
    if threading.current_thread() is not threading.main_thread() or _requests.owned:
        yield
        return
    _requests = requests = _Requests()
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    requests.owned = True
    allow(GRACE_SECONDS)
    requests.taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    heard, told = socket.socketpair()
    told.setblocking(False)
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(requests, heard), name="ending", daemon=True).start()
    requests.take()
    try:
        yield
    finally:
        requests.owned = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()  # which ends the thread


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """A library takes SIGTERM for itself within the block, and leaves by `sys.exit(15)`: a request like any other."""
    try:
        yield
    except SystemExit as left:
        if is_owned() and left.code == signal.SIGTERM:
            _requests.first = signal.SIGTERM
            _requests.end()
        raise
    finally:
        if is_owned():
            _requests.take()


def is_owned() -> bool:
    """Whether a request to end would arrive here: in the main thread of a stage."""
    return _requests.owned and threading.current_thread() is threading.main_thread()


def allow(seconds: float) -> float:
    """Sets the grace period; returns what of it there is before whoever asks uses force."""
    _requests.grace = max(0.0, min(seconds, _patience() - CLEAN_UP_SECONDS))
    return _requests.grace


def _patience() -> float:
    """Seconds from SIGTERM to SIGKILL, where that is known: of a submitted job, as Ray's own environment has it."""
    return float(os.environ.get(JOB_PATIENCE, 3)) if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else float("inf")


def requested() -> bool:
    """Whether the process was asked to end."""
    return _requests.first is not None


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """A request within the block is noted, and raised at its end or after the grace period.

    Raises:
        EndRequested: instead of whatever went wrong in the block after the request: others were asked as well.
    """
    if not is_owned():
        yield
        return
    requests, error = _requests, None
    requests.postponed += 1
    try:
        yield
    except Exception as failed:
        if not requested():
            raise
        error = failed
    finally:
        requests.postponed -= 1
    if requests.first is not None and not requests.postponed and not requests.raised:
        try:
            requests.end()
        except EndRequested as end:
            raise end from error


def check() -> None:
    """Raises what was asked for, within a `postponed` block where it is a good moment."""
    if is_owned() and requested():
        _requests.end()


def in_thread(
    work: Callable[[], Result], ask: Callable[[], Any] = lambda: None, pointless: Callable[[], bool] = lambda: True
) -> Result:
    """Does work that would take the signals over in the main thread, in another one; returns what it returns.

    What gives them back to the system, as the end of Ray does, has them for an instant only: they are taken again.

    Args:
        ask: asks the work to come to an end. pointless: whether there is nothing that it could save yet.
    """
    if not is_owned():
        return work()
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="work", daemon=True).start()
    asked = False
    while not wait([outcome], 0.05).done:
        _requests.take()
        if requested() and not asked:
            if pointless():
                _requests.end()
            asked = True
            ask()
    _requests.take()
    return outcome.result()


def remove_at_end(folder: Path) -> None:
    """Has `leave` remove a folder."""
    _requests.folders.append(folder)


def leave(code: int) -> None:
    """Ends this process and all that it has started, now, without the clean-up of libraries. Does not return."""
    import psutil

    # parents first, or they would start what is gone anew; twice, for what was started meanwhile
    for _ in range(2):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    for folder in _requests.folders:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def _watch(requests: _Requests, heard: socket.socket) -> None:
    """Ends the process at the second request, or when the end after the first one takes too long."""
    count, first = 0, 0
    while True:
        ready, _, _ = select.select([heard], [], [], None if count == 0 else 0.2)
        numbers = heard.recv(64) if ready else None
        if numbers == b"":
            heard.close()
            return
        for number in numbers or b"":
            if number in requests.taken:
                if count == 0:
                    first = number
                    patience = CLEAN_UP_SECONDS + (requests.grace if requests.postponed else 0)
                    # until the main thread knows of it; it may have set a later end already
                    requests.latest = min(requests.latest, time.monotonic() + patience)
                count += 1
        if count == 1 and time.monotonic() > requests.latest:
            name, how = signal.Signals(first).name, "the same command goes on (train, tune: with --resume)"
            with contextlib.suppress(OSError):
                os.write(2, f"ended by {name}, while something did not let go; {how}\n".encode())
            leave(128 + first)
        if count > 1:
            leave(128 + first)


def _in_child() -> None:
    """A forked process is no stage: its signals are its own, and those that it gets are not its parent's."""
    if _requests.owned:
        _requests.owned = False
        signal.set_wakeup_fd(-1)
        for number in _requests.taken:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)
