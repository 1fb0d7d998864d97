"""The mask table: the proposals of every image, computed once, appended by anyone, read by version.

    TABLE/_delta_log/                       which data files count (see `mail.data.mask_log`)
    TABLE/proposer_id=ID/*-SHA256.parquet   rows sorted by image_id, small row groups; written once, never changed
    TABLE/_proposers/ID.info.json           what is known of a proposer
    TABLE/_proposers/ID.images.json         what it saw in training (see `mail.data.origins`)

It is a Delta Lake table, partitioned by proposer: anything that reads those reads this. A writer asks what is
`pending`, `write`s uniquely named files and `commit`s them. Until then nobody sees the files; after that, everybody
sees all of them. Of two writers that computed the same image, the later one's row is dropped before its commit, so
every image has exactly one row a proposer, whoever was killed when.
"""

import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mail import addresses
from mail.data import files, schema
from mail.data.mask_log import NOTHING, MaskFile, MaskLog, MaskState
from mail.data.mask_snapshot import MaskSnapshot, keep_proposer, read_origin, read_proposer
from mail.data.origins import UNKNOWN, Origin
from mail.data.parquet import WRITING, ParquetReader
from mail.errors import UserError

MAX_FILE_BYTES = 256 * 2**20
ROW_GROUP_BYTES = 256 * 2**10  # what a reader of a single image has to fetch; more of them make planning slower
MAX_ROWS_PER_GROUP = 4096
READ_THREADS = 8


class MaskTable:
    """A mask table at a local path or `s3://` address; it comes into being with the first commit.

    Instances are cheap and hold no lock; any number of processes may use the same table at once.
    """

    def __init__(self, uri: str | os.PathLike):
        self.uri = addresses.absolute(uri)
        self.filesystem, self.root = files.resolve(uri)
        self.log = MaskLog(uri)
        self._known: dict[str, dict[str, Any]] = {}

    def head(self) -> MaskState:
        """The newest version (0 and no files before the first commit)."""
        return self.log.head()

    def pending(self, image_ids: Sequence[str] | pa.Array | pa.ChunkedArray, proposer_id: str) -> pa.Array:
        """Those of `image_ids` that have no committed row of this proposer, in the given order (a string array).

        Reads the key columns of the files that can hold one of them, nothing else.
        """
        wanted = _strings(image_ids)
        if len(wanted) == 0:
            return wanted
        span = pc.min_max(wanted).as_py()
        candidates = [f for f in self.head().of(proposer_id) if _overlap(f, span["min"], span["max"])]
        done = self._keys(candidates)
        return wanted.filter(pc.invert(pc.is_in(wanted, value_set=done))) if len(done) else wanted

    def write(self, table: pa.Table) -> MaskFile:
        """Writes rows (columns of `schema.MASKS`, one proposer, each image once) as a new data file, not yet committed.

        Raises:
            UserError: the file would be larger than 256 MB.
            ValueError: the rows are of several proposers, or an image comes twice.
        """
        table = table.select(schema.MASKS.names).cast(schema.MASKS)
        proposers = pc.unique(table["proposer_id"]).to_pylist()
        if len(proposers) != 1:
            raise ValueError(f"a data file holds rows of one proposer, these are of {proposers}")
        return self.write_rows(table.select(schema.MASK_FILE.names), proposers[0])

    def write_rows(self, rows: pa.Table, proposer_id: str) -> MaskFile:
        """As `write`, of rows without their proposer (columns of `schema.MASK_FILE`)."""
        rows = rows.sort_by("image_id").combine_chunks()
        keys, statuses = rows["image_id"], pc.unique(rows["status"]).to_pylist()
        if pc.count_distinct(keys).as_py() != len(keys):
            raise ValueError("an image comes twice in these rows")
        rows_per_group = max(1, ROW_GROUP_BYTES * len(rows) // max(1, rows.nbytes))
        buffer = io.BytesIO()
        pq.write_table(
            rows,
            buffer,
            row_group_size=min(rows_per_group, MAX_ROWS_PER_GROUP),
            compression="zstd",
            use_dictionary=["status", "error"],
            **WRITING,
        )
        data = buffer.getvalue()
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{len(rows)} rows make a file of {len(data) >> 20} MB: write fewer rows a file")
        sha256 = hashlib.sha256(data).hexdigest()
        # the name is new even if the content is not, so that no file is ever removed and added again
        path = f"proposer_id={quote(proposer_id, safe='')}/{uuid.uuid4().hex}-{sha256}.parquet"
        files.write_bytes(self.filesystem, f"{self.root}/{path}", data)
        return MaskFile(
            path=path,
            rows=len(rows),
            bytes=len(data),
            sha256=sha256,
            first_image_id=keys[0].as_py(),
            last_image_id=keys[-1].as_py(),
            proposer_id=proposer_id,
            status=statuses[0] if len(statuses) == 1 else None,
        )

    def commit(
        self,
        data_files: Sequence[MaskFile],
        proposer: dict[str, Any],
        *,
        planned_at: MaskState = NOTHING,
        replace: bool = False,
        note: dict[str, Any] | None = None,
    ) -> MaskState:
        """Makes written files part of the table, all of them at once, and returns the new state.

        Rows of images that somebody else committed meanwhile are dropped (or, with `replace`, take their place).

        Args:
            proposer: what is known of the proposer; `id` is required and is that of all the files.
            planned_at: the state that `pending` saw: the files it names are known not to hold these images.
            replace: the new rows replace committed ones of the same images (a retry).
            note: kept with the commit in the table's history, for people and reports.

        Raises:
            UserError: a file is not what its description says.
        """
        fresh, proposer_id = list(data_files), proposer["id"]
        for file in fresh:
            self.validate(file, proposer_id)
        self._check_disjoint(fresh)
        if self._known.get(proposer_id) != proposer:
            self._keep(proposer_id, "info", proposer)
            self._known[proposer_id] = dict(proposer)
        about = {"proposer_id": proposer_id, "leaky": bool(proposer.get("leaky")), "note": note}
        checked = set() if replace else set(planned_at.files)
        while True:
            head = self.head()
            rivals = [f for f in head.of(proposer_id) if f.path not in checked]
            if replace:
                added, removed = self._cut_out(rivals, fresh)
                added += fresh
            else:
                fresh = self._drop_committed(fresh, rivals)
                checked.update(f.path for f in rivals)
                added, removed = fresh, []
            if not added:
                return head
            if done := self.log.append(head, added, removed, **about):
                return done

    def swap(self, old: Sequence[MaskFile], new: MaskFile) -> MaskState | None:
        """Commits `new` in place of `old` (the same rows, laid out otherwise); None if one of `old` is gone by then."""
        while True:
            head = self.head()
            if any(f.path not in head.files for f in old):
                return None
            if done := self.log.append(head, [new], old, proposer_id=new.proposer_id, same_rows=True):
                return done

    def snapshot(self, proposer_id: str | None = None, version: int | None = None) -> MaskSnapshot:
        """The rows of one proposer as of a version (the newest by default).

        Raises:
            UserError: there is no commit, or several proposers and none is named, or the named one is not there.
        """
        state = self.head() if version is None else self.log.at(version)
        if state.version == 0:
            raise UserError(f"{self.uri} is not a mask table: it has no commits (run `mail-ris precompute` first)")
        known = state.proposer_ids
        if proposer_id is None:
            if len(known) != 1:
                raise UserError(f"{self.uri} holds masks of several proposers, name one of them: {', '.join(known)}")
            proposer_id = known[0]
        if proposer_id not in known:
            raise UserError(f"{self.uri} has no masks of proposer {proposer_id}: it has {', '.join(known)}")
        return MaskSnapshot(
            uri=self.uri,
            version=state.version,
            digest=state.digest,
            proposer_id=proposer_id,
            proposer=self.proposer(proposer_id, state),
            files=tuple(state.of(proposer_id)),
        )

    def proposer(self, proposer_id: str, state: MaskState) -> dict[str, Any]:
        """What is known of a proposer: what the latest commit was given, and `leaky` if any up to `state` said so."""
        info = read_proposer(self.uri, proposer_id, "info") or {"id": proposer_id}
        return {**info, "leaky": self.log.is_leaky(proposer_id, state.version)}

    def register_origin(self, proposer_id: str, seen: Origin | Iterable[str]) -> Origin:
        """Keeps what a proposer saw in training beside its masks; returns it with what others said of it before."""
        origin, known = Origin.of(seen), read_origin(self.uri, proposer_id)
        if origin == UNKNOWN:  # somebody who knows less than others did
            return known
        if known != UNKNOWN:
            origin |= known
        if origin != known:
            self._keep(proposer_id, "images", origin.to_json())
            if info := read_proposer(self.uri, proposer_id, "info"):
                self._keep(proposer_id, "info", {**info, "trained_on": origin.summary})
        return origin

    def _keep(self, proposer_id: str, what: str, content: Any) -> None:
        keep_proposer(self.uri, proposer_id, what, content)

    def validate(self, file: MaskFile, proposer_id: str) -> None:
        """Raises UserError unless a written file has the schema, rows, keys and proposer that its description says."""
        where = f"{self.uri}/{file.path}"
        found = self._open(file).schema
        if not found.equals(schema.MASK_FILE):
            raise UserError(f"{where} has not the mask table's columns but {found.names}")
        if file.proposer_id != proposer_id:
            raise UserError(f"{where} holds rows of another proposer than {proposer_id}")
        keys = self._key_column(file).combine_chunks()
        if len(keys) != file.rows or len(keys) == 0:
            raise UserError(f"{where} has {len(keys)} rows, {file.rows} were written")
        if len(keys) > 1 and not pc.all(pc.less(keys[:-1], keys[1:])).as_py():
            raise UserError(f"{where} is not sorted by image_id, or has an image twice")
        if (keys[0].as_py(), keys[-1].as_py()) != (file.first_image_id, file.last_image_id):
            raise UserError(f"{where} holds other images than its description says")

    def read_file(self, file: MaskFile, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one data file."""
        return self._open(file).read(columns)

    def iterate_file(self, file: MaskFile) -> Iterator[dict[str, Any]]:
        """The rows of one data file as dictionaries, a batch of them in memory at a time."""
        for batch in self._open(file).batches(batch_size=256):
            yield from batch.to_pylist()

    def _open(self, file: MaskFile) -> ParquetReader:
        return ParquetReader(self.filesystem, f"{self.root}/{file.path}")

    def _keys(self, data_files: Sequence[MaskFile]) -> pa.ChunkedArray:
        if not data_files:
            return pa.chunked_array([], pa.string())
        with ThreadPoolExecutor(READ_THREADS) as pool:
            columns = list(pool.map(self._key_column, data_files))
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())

    def _key_column(self, file: MaskFile) -> pa.ChunkedArray:
        return self._open(file).read(["image_id"])["image_id"]

    def _check_disjoint(self, data_files: Sequence[MaskFile]) -> None:
        ordered = sorted(data_files, key=lambda f: f.first_image_id)
        if all(a.last_image_id < b.first_image_id for a, b in pairwise(ordered)):
            return
        keys = self._keys(ordered)
        if pc.count_distinct(keys).as_py() != len(keys):
            raise UserError("the files to be committed hold an image more than once")

    def _drop_committed(self, fresh: Sequence[MaskFile], rivals: Sequence[MaskFile]) -> list[MaskFile]:
        """`fresh` without the rows whose images `rivals` hold; files that lose rows are written anew."""
        near = [[r for r in rivals if _overlap(r, f.first_image_id, f.last_image_id)] for f in fresh]
        return [rest for f, n in zip(fresh, near, strict=True) if (rest := self._without(f, self._keys(n)))]

    def _cut_out(self, rivals: Sequence[MaskFile], fresh: Sequence[MaskFile]) -> tuple[list[MaskFile], list[MaskFile]]:
        """`rivals` without the images of `fresh`: (files written anew, those that they replace)."""
        taken = self._keys(fresh)
        near = [r for r in rivals if any(_overlap(f, r.first_image_id, r.last_image_id) for f in fresh)]
        cut = [(rival, rest) for rival in near if (rest := self._without(rival, taken)) is not rival]
        return [rest for _, rest in cut if rest], [rival for rival, _ in cut]

    def _without(self, file: MaskFile, taken: pa.ChunkedArray) -> MaskFile | None:
        """A file less these images: itself if it has none of them, None if it has no others."""
        if len(taken) == 0 or not pc.any(pc.is_in(self._key_column(file), value_set=taken)).as_py():
            return file
        rows = self.read_file(file)
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], value_set=taken)))
        return self.write_rows(rows, file.proposer_id) if len(rows) else None


def _overlap(file: MaskFile, first: str, last: str) -> bool:
    return file.first_image_id <= last and file.last_image_id >= first


def _strings(values: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())
