"""What a person sees of a stage while it works: lines, and one bar for what takes long.

At a terminal a long piece of work shows a bar with its rate, the time that is left and what matters beside it (a loss,
errors). Where standard error is piped or logged, the same work says a line now and then; with `MAIL_LOG_FORMAT=json`
every line is a JSON object, for whoever collects logs.
"""

import contextlib
import datetime
import functools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mail.addresses import without_secrets

console = Console(stderr=True, highlight=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 5.0


def say(message: str, **fields: Any) -> None:
    """A line for the person at the terminal (standard error).

    With `MAIL_LOG_FORMAT=json` it is a JSON object instead: `time`, `message`, and `fields`.
    """
    message = without_secrets(message)
    if _as_json():
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"time": moment, "message": message, **fields}, default=str), file=sys.stderr, flush=True)
        return
    console.print(message, markup=False)


def listen() -> None:
    """From now on what `mail` logs is said, and no library logs a secret."""
    heard = logging.getLogger("mail")
    if not any(isinstance(handler, _Said) for handler in heard.handlers):
        heard.addHandler(_Said())
    logging.setLogRecordFactory(_record)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _record(*given: Any, **more: Any) -> logging.LogRecord:
    record = logging.LogRecord(*given, **more)
    text = record.getMessage()
    if (shown := without_secrets(text)) != text:
        record.msg, record.args = shown, None
    return record


def done(message: str) -> None:
    """The stage's one-line summary of what it wrote (standard output)."""
    print(without_secrets(message), flush=True)


def _as_json() -> bool:
    return os.environ.get("MAIL_LOG_FORMAT") == "json"


class Advance:
    """How far a piece of work is, as a bar or as lines. A context manager; what is said meanwhile goes above the bar.

    Args:
        what: names the work and its unit ("images read"). total: of the units, which may change. begun_at: units done
            before.
    """

    def __init__(self, what: str, total: int, begun_at: int = 0):
        self.what, self.total = what, total
        self._started = self._said = time.monotonic()
        self._begun_at = self._done = begun_at
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal and not _as_json():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[beside]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total, completed=begun_at, rate="", beside="")

    def __enter__(self) -> "Advance":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units a second since this began; 0 where it is too short a time to tell."""
        seconds = time.monotonic() - self._started
        return (self._done - self._begun_at) / seconds if seconds > 0.01 else 0.0

    def __call__(
        self,
        finished: int,
        beside: str = "",
        rate: float | None = None,
        line: str = "",
        at_once: bool = False,
        **fields: Any,
    ) -> None:
        """Shows that so many units are done.

        Args:
            beside: what matters besides. rate: units a second, where the caller knows better (without a start-up).
            line: what is said where there is no bar, default: made of the rest. fields: of its JSON object.
            at_once: the line is not to wait for its turn.
        """
        self._done = finished
        now, pace = time.monotonic(), self.rate if rate is None else rate
        if self._bar is not None:
            self._bar.update(self._task, total=self.total, completed=finished, rate=f"{pace:.1f}/s", beside=beside)
        elif at_once or now - self._said >= SECONDS_BETWEEN_LINES or finished == self.total:
            self._said = now
            say(line or self._line(finished, pace, beside), **fields)

    def _line(self, finished: int, pace: float, beside: str) -> str:
        left = f", about {duration((self.total - finished) / pace)} left" if pace > 0 and finished < self.total else ""
        rate = f" ({pace:.1f}/s)" if pace > 0 else ""
        return f"{self.what}: {finished} of {self.total}{rate}{left}" + (f", {beside}" if beside else "")


@contextlib.contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A `progress(done, total)` that shows how far it is; `what` names the work and its unit."""
    with contextlib.ExitStack() as stack:
        shown = functools.cache(lambda total: stack.enter_context(Advance(what, total)))
        yield lambda finished, total: shown(total)(finished)


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d} h"
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
