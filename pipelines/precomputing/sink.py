"""What precompute's driver does with rows: data files, commits, progress. Its memory does not grow with the images."""

import contextlib
import ctypes
import os
import time
from collections import Counter
from types import TracebackType
from typing import Any

import pyarrow as pa

from mail.data.mask_log import MaskFile, MaskState
from mail.data.mask_table import MaskTable
from pipelines.ending import EndRequested, postponed
from pipelines.terminal import Advance

FILE_BYTES = 8 * 2**20  # a data file is written no later than at this size; `masks compact` makes larger ones
FIRST_COMMIT_SECONDS = 5.0


def use_system_memory() -> None:
    """Arrow's own allocator keeps for every thread what that once had, out of reach of `give_back_memory`: the driver
    would be the larger the more images a store has. Here, and in the workers of a local Ray that is started later."""
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        pa.set_memory_pool(pa.system_memory_pool())


def give_back_memory() -> None:
    """Tables and batches of ever other sizes leave holes in the heap, which would grow by half within 1,000 images."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library has other holes
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class MaskSink:
    """Writes and commits rows as they come, and says how far the run is."""

    def __init__(
        self,
        table: MaskTable,
        proposer: dict[str, Any],
        planned_at: MaskState,
        images: int,
        every: float,
        replace: bool = False,
    ):
        self.table, self.proposer, self.planned_at, self.images = table, proposer, planned_at, images
        self.every, self.replace = every, replace
        self.state = planned_at
        self.rows = 0
        self.statuses: Counter[str] = Counter()
        self._waiting: list[pa.Table] = []
        self._written: list[MaskFile] = []
        self._commits = 0
        self._advance = Advance("images", images)
        self._begun_at = self._first_at = self._committed_at = time.monotonic()
        self._first_rows = self._noted_rows = 0
        self._last_at = self._noted_at = self._first_at

    def __enter__(self) -> "MaskSink":
        self._advance.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._advance.__exit__(kind, error, at)
        if isinstance(error, EndRequested):
            self.flush()
            error.kept = f"the masks of {self.rows} of {self.images} pending images are committed"

    @property
    def images_per_second(self) -> float:
        """Of the time after the first rows came back, so without the start of the actors; where all came back at once,
        of the time from the beginning."""
        if self.rows > self._first_rows:
            return (self.rows - self._first_rows) / max(1e-9, self._last_at - self._first_at)
        return self.rows / max(1e-9, self._last_at - self._begun_at)

    def add(self, rows: pa.Table) -> None:
        """Takes rows; writes and commits when it is time."""
        with postponed():  # rows must be either waiting or written
            self._add(rows)

    def _add(self, rows: pa.Table) -> None:
        now = self._last_at = time.monotonic()
        if self.rows == 0:
            self._first_at = self._committed_at = self._noted_at = now
            self._first_rows = self._noted_rows = len(rows)
        self.rows += len(rows)
        self.statuses.update(rows["status"].to_pylist())
        self._waiting.append(rows)
        if sum(r.nbytes for r in self._waiting) >= FILE_BYTES:
            self._write()
        if now - self._committed_at >= min(self.every, FIRST_COMMIT_SECONDS * 2**self._commits):
            self.flush()
        errors = self.rows - self.statuses["ok"]
        self._advance(self.rows, f"{errors} unusable so far" if errors else "", self.images_per_second)

    def flush(self) -> None:
        """Commits all rows that were taken."""
        self._write()
        if not self._written:
            return
        self.state = self.table.commit(
            self._written, self.proposer, planned_at=self.planned_at, replace=self.replace, note=self._note()
        )
        self._written = []
        give_back_memory()
        self._commits += 1
        self._committed_at = self._last_at = time.monotonic()

    def _note(self) -> dict[str, Any]:
        """How many images took how long since the note before, not counting what came while the actors started."""
        now = time.monotonic()
        note = {"proposer_id": self.proposer["id"], "images": self.rows - self._noted_rows}
        note["seconds"] = round(now - self._noted_at, 3)
        self._noted_rows, self._noted_at = self.rows, now
        return note

    def _write(self) -> None:
        if self._waiting:
            self._written.append(self.table.write(pa.concat_tables(self._waiting)))
            self._waiting = []
