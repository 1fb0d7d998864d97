"""One living owner at a time: who writes a run, a proposer, a study, an evaluation or a demo holds a claim on it.

    OUT/.claim/000001     host, process, since when; renewed every few seconds as long as the owner lives

A claim is held by the mark with the greatest number (`pipelines.claiming.marks`). A second start meets it and

* is refused at once if the owner is a living process of this machine, or within seconds if the mark is renewed;
* takes over at once if the owner was a process of this machine that is gone, or else if nothing was heard of it for
  half a minute (`MAIL_CLAIM_SECONDS`): it makes the next number, which only one can, and deletes the old mark.

No clock is compared with another machine's: a mark that changes while one looks at it is alive. An owner that was
stopped, or cut off, and wakes again finds its mark gone or a greater one beside it. It asks before whatever it writes
(`check`), and while it works (`alive`), and ends with one line. Workers of a run ask too, by the claim's `ticket`: they
may go on while the driver is stopped.
"""

import contextlib
import functools
import json
import os
import random
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from mail import addresses
from mail.data import files
from mail.data.object_store import PASSING
from mail.errors import UserError
from mail.waiting import until_answered
from pipelines.claiming.marks import FOLDER, Marks
from pipelines.processes import identity, lives
from pipelines.terminal import say

PATIENCE = "MAIL_CLAIM_SECONDS"
LOOKS = 6  # renewals in the time after which an owner that is not heard of counts as gone


@dataclass
class Ticket:
    """Of a claim that was taken, for every process that writes in its name; can be pickled.

    Attributes:
        folder: address. what: names what is in it.
        number, token: of the mark. patience: seconds of silence after which another one may take it.
    """

    folder: str
    what: str
    number: int
    token: str
    patience: float
    _looked: float = float("-inf")

    def check(self) -> None:
        """Raises UserError if another process has the folder now: nothing more may be written."""
        now = _now()
        mine, numbers = until_answered(self._see, lambda error: bool(PASSING.search(str(error))), self.folder)
        if mine.get("token") == self.token and numbers[-1:] == [self.number]:
            self._looked = now
            return
        later = _read(self._marks, numbers[-1])[0] if numbers and numbers[-1] > self.number else {}
        if later:
            raise UserError(
                f"{self.what} is gone on with by {_whose(later)}, as nothing was heard of this process for a while: it "
                "ends and writes nothing more"
            )
        raise UserError(
            f"{self.what} is no longer this process's, as its mark in {self.folder}/{FOLDER} is gone: another process "
            "took it over, or somebody deleted it; it ends and writes nothing more"
        )

    def alive(self) -> None:
        """The same for a loop: looks only if so much time has passed that another one may have it.

        A store that is away has its say when something is written.
        """
        if _now() - self._looked >= self.patience / 2:
            with contextlib.suppress(OSError):
                self.check()

    def is_lost(self) -> bool:
        """Whether another process has the folder now; no, as long as the store does not say so."""
        try:
            self.check()
        except UserError:
            return True
        except OSError:
            return False
        return False

    @functools.cached_property
    def _marks(self) -> Marks:
        return Marks.of(self.folder)

    def _see(self) -> tuple[dict[str, Any], list[int]]:
        return _read(self._marks, self.number)[0], self._marks.numbers()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_marks", "_looked")}  # both are of this machine


class Claim:
    """A claim on a folder that is held; a context manager that gives it back.

    Args:
        folder: address, which need not be there yet.
        what: names for people what is made in the folder. other: what a second one gives instead (`another --name`).

    Raises:
        UserError: another process has it, or it cannot be written.
    """

    def __init__(self, folder: str | Path, what: str, other: str):
        self._what, self._other, self._address = what, other, addresses.absolute(folder)
        self._patience = _patience()
        files.check_writable(folder)
        files.resolve(folder)  # asks an object store whether it is there
        self._marks = Marks.of(self._address)
        token = uuid.uuid4().hex
        self._content = json.dumps(_this_process() | {"token": token, "seconds": self._patience}).encode()
        self.ticket = Ticket(self._address, what, self._take(), token, self._patience)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._thread.start()

    def __enter__(self) -> Ticket:
        return self.ticket

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(self._patience)
        with contextlib.suppress(OSError):  # then it counts as a dead one's
            if _read(self._marks, self.ticket.number)[0].get("token") == self.ticket.token:
                self._marks.delete(self.ticket.number)

    def _take(self) -> int:
        """Takes the folder, once it is free; the number of the mark."""
        while True:
            dead = self._marks.numbers()
            if dead:
                self._judge(dead[-1])
            number = (dead or [0])[-1] + 1
            if not self._marks.make(number, self._content):
                continue  # somebody was quicker: look who
            if [n for n in self._marks.numbers() if n != number and n not in dead]:
                self._marks.delete(number)  # somebody took the folder, and perhaps left it, meanwhile
                time.sleep(random.uniform(0.1, 0.5))
                continue
            for old in dead:
                self._marks.delete(old)
            return number

    def _judge(self, number: int) -> None:
        """Returns if the owner of a mark is gone; takes its time for that.

        Raises:
            UserError: it lives.
        """
        owner, before = _read(self._marks, number)
        alive = lives(owner)
        patience = float(owner.get("seconds", self._patience))
        begun, said = time.monotonic(), False
        while alive is None and time.monotonic() - begun < patience:
            if not before:
                return
            if not said and time.monotonic() - begun > 1.5 * patience / LOOKS:
                said = True
                say(f"{self._what} was begun by {_whose(owner)}; if it is not heard of for {patience:.0f} s, I go on")
            time.sleep(min(0.5, patience / LOOKS / 4))
            now, beat = _read(self._marks, number)
            alive, owner, before = (True if beat and beat != before else None), now or owner, beat
        if alive:
            raise UserError(
                f"{self._what} is being worked on by {_whose(owner)}, in {self._address}: wait until it has ended, end "
                f"it, or give {self._other}"
            )
        if before:
            say(f"going on in the place of {_whose(owner)}, which is gone")

    def _renew(self) -> None:
        while not self._ended.wait(self._patience / LOOKS):
            try:
                if not self._marks.beat(self.ticket.number, self._content):
                    return  # lost: whoever writes finds out
            except OSError:
                continue  # the store is away


def _read(marks: Marks, number: int) -> tuple[dict[str, Any], str]:
    """What a mark says and its last beat, both empty if it is not there; it says nothing while it is being made."""
    found = marks.read(number)
    if found is None:
        return {}, ""
    try:
        return dict(json.loads(found[0].splitlines()[0])), found[1]
    except (ValueError, TypeError, IndexError):
        return {}, found[1]


def _this_process() -> dict[str, Any]:
    return {**identity(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _whose(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    since = str(owner.get("since", "")).replace("T", " ").replace("+00:00", " UTC")
    return f"process {owner.get('process')} on {owner.get('host')}, since {since}"


def _patience() -> float:
    text = os.environ.get(PATIENCE, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= 3600:
        raise UserError(f"{PATIENCE}={text}: give the seconds after which a silent owner counts as gone, 1 to 3600")
    return seconds


def _now() -> float:
    """Seconds that go on while the machine sleeps, where it has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
