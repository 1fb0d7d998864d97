"""The mask table's commits: numbered JSON files, created if absent, each naming its parent by digest.

    TABLE/_commits/000001.json    numbers without gaps, never changed, never deleted

A commit lists the data files it adds and removes; every `CHECKPOINT_EVERY`th lists all that are there, so that a reader
fetches a handful of commits however long the history is. The newest number is found by probing (1, 2, 4, 8, ... and
bisecting), because listing a bucket is slow and costs money.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mail.data.objects import open_objects
from mail.data.store import DataFile
from mail.errors import UserError

FORMAT_VERSION = 1
CHECKPOINT_EVERY = 16


@dataclass(frozen=True)
class MaskFile(DataFile):
    """One data file of a mask table, as its commit lists it. All rows are of one proposer; each image comes once."""

    proposer_id: str
    statuses: dict[str, int]  # rows per status


@dataclass(frozen=True)
class Commit:
    """A state of the table: the files that count."""

    number: int
    digest: str  # sha256 of the commit file; it names its parent's digest, so it stands for the whole history
    time: str
    files: dict[str, MaskFile]  # by path, relative to the table
    proposers: dict[str, dict[str, Any]]  # by proposer_id


NOTHING = Commit(0, "", "", {}, {})
"""The state before the first commit."""


class CommitLog:
    """Reads and appends the commits of one table (a local path or an `s3://` address)."""

    def __init__(self, uri: str | os.PathLike):
        self.uri = os.fspath(uri)
        self.objects = open_objects(uri)
        self._head = NOTHING

    def head(self) -> Commit:
        """The newest commit, `NOTHING` if there is none."""
        number = self._newest_number()
        if number > self._head.number:
            self._head = self.at(number, known=self._head)
        return self._head

    def at(self, number: int, known: Commit = NOTHING) -> Commit:
        """The state as of a commit; `known` is an earlier state from which it can be continued."""
        chain: list[tuple[dict[str, Any], str]] = []
        base = NOTHING
        current = number
        while current > 0:
            if current == known.number:
                base = known
                break
            record, digest = self._load(current)
            if chain and chain[-1][0]["parent"] != digest:
                raise UserError(f"{self.uri}: commit {current} is not the one that commit {current + 1} was made on")
            chain.append((record, digest))
            if "files" in record:
                break
            current -= 1
        if base is not NOTHING and chain and chain[-1][0]["parent"] != base.digest:
            raise UserError(f"{self.uri}: commit {base.number} was replaced while the table was being read")
        for record, digest in reversed(chain):
            base = _apply(base, record, digest)
        return base

    def notes(self, number: int) -> Iterator[dict[str, Any]]:
        """The notes of all commits up to `number`, the newest first; reads every commit file, so not for hot paths."""
        for current in range(number, 0, -1):
            if note := self._load(current)[0]["note"]:
                yield note

    def append(
        self,
        after: Commit,
        *,
        added: list[MaskFile],
        removed: list[str] | None = None,
        proposers: dict[str, dict[str, Any]] | None = None,
        note: dict[str, Any] | None = None,
    ) -> Commit | None:
        """Creates the commit that follows `after`; None if somebody else already did."""
        record: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "number": after.number + 1,
            "id": uuid.uuid4().hex,
            "parent": after.digest or None,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "note": note or {},
            "proposers": proposers or {},
            "added": [asdict(f) for f in added],
            "removed": removed or [],
        }
        state = _apply(after, record, "")
        if record["number"] % CHECKPOINT_EVERY == 0:
            record["files"] = [asdict(f) for f in state.files.values()]
            record["proposers"] = state.proposers
        data = json.dumps(record, indent=1).encode()
        if not self.objects.create(_key(record["number"]), data):
            return None
        self._head = replace(state, digest=hashlib.sha256(data).hexdigest())
        return self._head

    def _load(self, number: int) -> tuple[dict[str, Any], str]:
        data = self.objects.get(_key(number))
        if data is None:
            raise UserError(f"{self.uri} has no commit {number}: {_key(number)} is missing")
        try:
            record = json.loads(data)
            version = record["format_version"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.uri}/{_key(number)} is not a commit of a mask table") from None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.uri} has mask-table format {version}, this program reads {FORMAT_VERSION}: "
                "use the program that wrote it, or precompute into a new table"
            )
        return record, hashlib.sha256(data).hexdigest()

    def _newest_number(self) -> int:
        low, step = self._head.number, 1
        while self.objects.exists(_key(low + step)):
            low, step = low + step, step * 2
        high = low + step  # absent when it was probed
        while high - low > 1:
            middle = (low + high) // 2
            if self.objects.exists(_key(middle)):
                low = middle
            else:
                high = middle
        return low


def _key(number: int) -> str:
    return f"_commits/{number:06d}.json"


def _apply(base: Commit, record: dict[str, Any], digest: str) -> Commit:
    if "files" in record:
        files = {f["path"]: MaskFile(**f) for f in record["files"]}
        proposers = dict(record["proposers"])
    else:
        gone = set(record["removed"])
        files = {path: file for path, file in base.files.items() if path not in gone}
        files |= {f["path"]: MaskFile(**f) for f in record["added"]}
        proposers = dict(base.proposers)
        for proposer_id, info in record["proposers"].items():
            leaky = bool(info.get("leaky")) or bool(proposers.get(proposer_id, {}).get("leaky"))
            proposers[proposer_id] = {**info, "leaky": leaky}  # once leaky, leaky for good
    return Commit(record["number"], digest, record["time"], files, proposers)
