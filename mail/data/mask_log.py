"""The mask table's versions: a Delta Lake transaction log, kept by the library `deltalake`, that any engine reads.

A version lists the data files that count, each with its rows, its least and greatest image_id, and the status of its
rows if it is the same. Of two commits that were planned on the same version one counts; the other leaves nothing but
data files that no version names, and is planned anew (`MaskTable.commit`).

The sha256 of a file's content is the end of its name, and that a proposer is leaky is an application transaction: both
outlive the log's checkpoints, which keep neither a file's tags nor a commit's notes.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from mail import addresses
from mail.data import files, object_store, schema
from mail.data.store import DataFile
from mail.errors import UserError, full_disk

PARTITION = ["proposer_id"]
PROPERTIES = {
    "delta.checkpointInterval": "16",  # a reader fetches a handful of commits however long the history is
    "delta.enableExpiredLogCleanup": "false",  # models name versions, which people look up years later
    "delta.deletedFileRetentionDuration": "interval 3650 days",  # `masks gc` has to know since when a file is unneeded
}


@dataclass(frozen=True)
class MaskFile(DataFile):
    """One data file of a mask table, as the log lists it. All rows are of one proposer; each image comes once."""

    proposer_id: str
    status: str | None  # of every row; None if they differ


@dataclass(frozen=True)
class MaskState:
    """A version of the table: the files that count."""

    version: int
    digest: str  # sha256 over the table's identity, the version and its files, so over all that can be read of it
    files: dict[str, MaskFile]  # by path, relative to the table

    @property
    def proposer_ids(self) -> list[str]:
        return sorted({f.proposer_id for f in self.files.values()})

    def of(self, proposer_id: str) -> list[MaskFile]:
        """The files of one proposer, by their first image."""
        chosen = (f for f in self.files.values() if f.proposer_id == proposer_id)
        return sorted(chosen, key=lambda f: (f.first_image_id, f.path))


NOTHING = MaskState(0, "", {})
"""The state before the first commit; version 0 of a table has no files."""


class MaskLog:
    """Reads and appends the versions of one table (a local path or an `s3://` address)."""

    def __init__(self, uri: str | os.PathLike):
        self.uri = addresses.absolute(uri)
        self.filesystem, self.root = files.resolve(uri)
        self._head = NOTHING
        self._table: DeltaTable | None = None  # at the version of `_head`

    def head(self) -> MaskState:
        """The newest version, `NOTHING` if there is no table."""
        if self._table is None:
            self._table = self._load()
        else:
            with self._clear_errors():
                self._table.update_incremental()
        if self._table is not None and (self._table.version() != self._head.version or not self._head.digest):
            self._head = self._state(self._table)
        return self._head

    def at(self, version: int) -> MaskState:
        """The state as of a version. Raises UserError if there is none."""
        table = self._load(version)
        return NOTHING if table is None else self._state(table)

    def append(
        self,
        after: MaskState,
        added: Sequence[MaskFile],
        removed: Iterable[MaskFile] = (),
        *,
        proposer_id: str,
        leaky: bool = False,
        note: dict[str, Any] | None = None,
        same_rows: bool = False,
    ) -> MaskState | None:
        """Makes the version that follows `after`; None if somebody else already did, then the caller plans anew.

        Args:
            leaky: marks the proposer, for good: the log remembers the last transaction of every name.
            same_rows: the table holds the same rows as before, in other files.
        """
        table = self._table or self._create()
        if table.version() != after.version:
            return None
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(f.path, not same_rows, now, size=f.bytes, partition_values={"proposer_id": f.proposer_id})
            for f in removed
        ]
        actions += [
            AddAction(f.path, f.bytes, {"proposer_id": f.proposer_id}, now, not same_rows, _statistics(f))
            for f in added
        ]
        names = [proposer_id, _leaky(proposer_id)] if leaky else [proposer_id]
        properties = CommitProperties(
            custom_metadata=note,
            max_commit_retries=0,  # the library would repeat a plan that another commit may have made wrong
            app_transactions=[Transaction(name, after.version + 1) for name in names],
        )
        with self._clear_errors():
            try:
                table.create_write_transaction(
                    actions, "append", table.schema(), PARTITION, commit_properties=properties
                )
            except (DeltaError, OSError):
                head = self.head()
                if not all(f.path in head.files for f in added):  # else only the store's answer got lost
                    if head.version == after.version:
                        raise  # no other commit is to blame
                    return None
        return self.head()

    def is_leaky(self, proposer_id: str, version: int) -> bool:
        """Whether a commit up to this version called the proposer leaky."""
        table = self._table if self._table and self._table.version() == version else self._load(version)
        with self._clear_errors():
            return table is not None and table.transaction_version(_leaky(proposer_id)) is not None

    def notes(self) -> Iterator[dict[str, Any]]:
        """The notes of all commits, the newest first; reads every commit file, so not for hot paths."""
        self.head()
        with self._clear_errors():
            yield from self._table.history() if self._table else ()

    def vacuum(self, older_than: timedelta, delete: bool) -> list[str]:
        """Paths of files that no version named within the age limit (in whole hours), and that are older themselves.

        Args:
            delete: delete them, which makes versions of its own; older versions that named them are lost.
        """
        self.head()
        if self._table is None:
            return []
        hours = math.ceil(older_than / timedelta(hours=1))
        with self._clear_errors():
            # full: also what no commit ever named, left by writers that were killed
            return self._table.vacuum(hours, dry_run=not delete, enforce_retention_duration=False, full=True)

    def _load(self, version: int | None = None) -> DeltaTable | None:
        address, options = _delta_address(self.uri)
        with self._clear_errors():
            try:
                return DeltaTable(address, version=version, storage_options=options)
            except TableNotFoundError:
                pass
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            files.read_bytes(self.filesystem, f"{self.root}/_commits/000001.json")
            raise UserError(
                f"{self.uri} is a mask table of an older layout (it has _commits/), this program reads Delta tables: "
                "precompute into a new table"
            )
        return None

    def _create(self) -> DeltaTable:
        address, options = _delta_address(self.uri)
        with self._clear_errors(), contextlib.suppress(CommitFailedError):  # somebody else may be first
            DeltaTable.create(
                address,
                Schema.from_arrow(schema.MASKS),
                mode="ignore",
                partition_by=PARTITION,
                configuration=PROPERTIES,
                storage_options=options,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        self.head()
        assert self._table is not None
        return self._table

    def _state(self, table: DeltaTable) -> MaskState:
        with self._clear_errors():
            listed = sorted(map(_file, pa.table(table.get_add_actions(flatten=True)).to_pylist()), key=lambda f: f.path)
            content = [str(table.metadata().id), table.version(), *map(astuple, listed)]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return MaskState(table.version(), digest, {f.path: f for f in listed})

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """The library's errors come in several coloured lines."""
        try:
            yield
        except (DeltaError, OSError) as error:
            if full := full_disk(error, self.uri):
                raise full from error
            if refused := object_store.refusal(error, self.uri):
                raise UserError(refused) from error
            text = " ".join(re.sub(r"\x1b\[\d*m|↳", "", str(error)).split())
            raise UserError(f"{self.uri} cannot be used as a Delta table: {text[:400]}") from error


def _delta_address(uri: str) -> tuple[str, dict[str, str]]:
    """What `deltalake` needs to find a table; credentials, region and endpoint it takes from the usual variables."""
    if re.search("%[0-9a-fA-F]{2}", uri):  # deltalake decodes it twice: it would write here and read there
        raise UserError(f"{uri}: % and two digits in the address of a mask table are not understood: rename the folder")
    if addresses.remote_path(uri) is None:
        return addresses.encoded_uri(uri), {}
    plain = "true" if (object_store.endpoint() or "").startswith("http://") else "false"
    # the library's own three minutes are too long to wait for a store that went away
    options = {"aws_conditional_put": "etag", "aws_allow_http": plain, "retry_timeout": "45s"}
    return addresses.encoded_uri(uri), options


def _statistics(file: MaskFile) -> str:
    agreed = {} if file.status is None else {"status": file.status}
    least, greatest = {"image_id": file.first_image_id} | agreed, {"image_id": file.last_image_id} | agreed
    return json.dumps(
        {"numRecords": file.rows, "minValues": least, "maxValues": greatest, "nullCount": {"image_id": 0}}
    )


def _file(action: dict[str, Any]) -> MaskFile:
    if not all(isinstance(action.get(f"{end}.image_id"), str) for end in ("min", "max")):
        raise DeltaError(f"{action['path']} was added without the range of its image_id")
    return MaskFile(
        path=unquote(action["path"]),
        rows=action["num_records"],
        bytes=action["size_bytes"],
        sha256=action["path"].removesuffix(".parquet")[-64:],
        first_image_id=action["min.image_id"],
        last_image_id=action["max.image_id"],
        proposer_id=action["partition.proposer_id"],
        status=action["min.status"] if action["min.status"] == action["max.status"] else None,
    )


def _leaky(proposer_id: str) -> str:
    return f"{proposer_id} is leaky"
