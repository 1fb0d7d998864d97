"""Looking after a mask table: is everything right with it, fewer larger files, and what nobody needs any more."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mail import rle
from mail.data import files, schema
from mail.data.ingest import Progress
from mail.data.mask_log import MaskFile, MaskState
from mail.data.mask_table import MaskTable
from mail.data.segmentation import checked_mask
from mail.data.store import DataStore
from mail.errors import UserError

STATUSES = (schema.STATUS_OK, schema.STATUS_DECODE_ERROR, schema.STATUS_TOO_LARGE, schema.STATUS_PROPOSER_ERROR)
COMPACT_BYTES = 64 * 2**20
BOX_TOLERANCE = 0.01  # pixels


def verify(table: MaskTable, store: DataStore | None = None, progress: Progress | None = None) -> Iterator[str]:
    """Reads every data file of the newest version and yields what is wrong: digests, schema, keys, masks, boxes, sizes.

    Args:
        store: its images' sizes and digests are compared with the rows'.
        progress: is called with the files that were read and their number.
    """
    head, read = table.head(), itertools.count(1)
    sizes = _sizes(store) if store else {}
    for proposer_id in head.proposer_ids:
        keys: list[pa.ChunkedArray] = []
        for file in head.of(proposer_id):
            if progress is not None:
                progress(next(read), len(head.files))
            try:
                data = files.read_bytes(table.filesystem, f"{table.root}/{file.path}")
            except FileNotFoundError:
                yield f"{file.path}: the file is missing"
                continue
            if hashlib.sha256(data).hexdigest() != file.sha256:
                yield f"{file.path}: its content has changed since it was committed"
                continue
            try:
                table.validate(file, proposer_id)
            except UserError as error:
                yield str(error)
                continue
            keys.append(table.read_file(file, ["image_id"])["image_id"])
            for row in table.iterate_file(file):
                yield from (f"{file.path}: {row['image_id']}: {wrong}" for wrong in _wrong_with(row, sizes))
        every = pa.chunked_array([c for k in keys for c in k.chunks], pa.string())
        if len(every) != pc.count_distinct(every).as_py():
            counts = pc.value_counts(every)
            doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
            yield f"{proposer_id}: {len(doubled)} images have several rows, first: {', '.join(doubled[:3])}"


def compact(table: MaskTable, target_bytes: int = COMPACT_BYTES, dry_run: bool = False) -> tuple[int, int]:
    """Merges small files of each proposer into files of about `target_bytes`; snapshots taken before stay readable.

    Returns:
        (files before, files after) of those that were, or would be, merged.
    """
    before = after = 0
    for group in _small_neighbours(table.head(), target_bytes):
        before, after = before + len(group), after + 1
        if not dry_run:
            # our own writer: deltalake's `optimize.compact` keeps neither order nor row groups, nor digests in names
            merged = table.write_rows(pa.concat_tables([table.read_file(f) for f in group]), group[0].proposer_id)
            table.swap(group, merged)  # None if a file is gone meanwhile: then somebody else tidied up
    return before, after


def collect(table: MaskTable, older_than: timedelta, delete: bool = False) -> list[tuple[str, int]]:
    """Data files, (path, bytes), that no version within the age limit named and nobody wrote within it.

    Args:
        older_than: the age limit, taken as whole hours, rounded up.
        delete: delete them; older versions that named them cannot be read any more.
    """
    paths = table.log.vacuum(older_than, delete=False)
    sizes = [info.size or 0 for info in table.filesystem.get_file_info([f"{table.root}/{path}" for path in paths])]
    found = dict(zip(paths, sizes, strict=True))
    return [(path, found.get(path, 0)) for path in (table.log.vacuum(older_than, delete=True) if delete else paths)]


@dataclass(frozen=True)
class MaskTableStatus:
    """What a table holds of one proposer."""

    proposer_id: str
    files: int
    bytes: int
    rows: int
    statuses: dict[str, int]
    proposer: dict[str, Any]


def status(table: MaskTable, state: MaskState) -> Iterator[MaskTableStatus]:
    """Per proposer the files, rows and statuses of a version; reads only the statuses of files with several of them."""
    for proposer_id in state.proposer_ids:
        chosen = state.of(proposer_id)
        statuses: Counter[str] = Counter()
        for file in chosen:
            if file.status is not None:
                statuses[file.status] += file.rows
            else:
                statuses.update(table.read_file(file, ["status"])["status"].to_pylist())
        size, rows = sum(f.bytes for f in chosen), sum(f.rows for f in chosen)
        known = table.proposer(proposer_id, state)
        yield MaskTableStatus(proposer_id, len(chosen), size, rows, dict(sorted(statuses.items())), known)


@dataclass(frozen=True)
class Problem:
    """An image without proposals because something was wrong with it."""

    image_id: str
    status: str
    error: str


def problems(table: MaskTable, proposer_id: str, statuses: set[str] | None = None) -> Iterator[Problem]:
    """Rows that are not ok (or have one of `statuses`); reads only files that hold such rows."""
    for file in table.head().of(proposer_id):
        if file.status is not None and (file.status not in statuses if statuses else file.status == schema.STATUS_OK):
            continue
        rows = table.read_file(file, ["image_id", "status", "error"])
        chosen = pc.is_in(rows["status"], value_set=pa.array(sorted(statuses or {schema.STATUS_OK}), pa.string()))
        for row in rows.filter(chosen if statuses else pc.invert(chosen)).to_pylist():
            yield Problem(row["image_id"], row["status"], row["error"] or "")


@dataclass(frozen=True)
class Reason:
    """How often the same thing was wrong; numbers in what it says are written #."""

    status: str
    error: str
    count: int
    first: str


def reasons(found: Iterable[Problem]) -> list[Reason]:
    """Problems counted by status and reason, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for problem in found:
        key = (problem.status, re.sub(r"\d+", "#", problem.error))
        counts[key] += 1
        first.setdefault(key, problem.image_id)
    return [Reason(*key, count, first[key]) for key, count in counts.most_common()]


def seconds_per_image(table: MaskTable, proposer_id: str) -> float | None:
    """Mean time that an image took, of the runs that wrote this proposer's rows; None if no commit says.

    Wall-clock time of whole runs once their actors were up, over their images: a proposer on 8 GPUs takes an eighth.
    """
    images, seconds = 0, 0.0
    for note in table.log.notes():
        if note.get("proposer_id") == proposer_id:
            images, seconds = images + note["images"], seconds + note["seconds"]
    return seconds / images if images else None


def _small_neighbours(head: MaskState, target_bytes: int) -> Iterator[list[MaskFile]]:
    """Runs of at least two small files of a proposer, neighbours by key, that together make one of the target size."""
    for proposer_id in head.proposer_ids:
        group: list[MaskFile] = []
        for file in head.of(proposer_id):
            if file.bytes >= target_bytes / 2:
                continue
            if group and sum(f.bytes for f in group) + file.bytes > target_bytes:
                if len(group) > 1:
                    yield group
                group = []
            group.append(file)
        if len(group) > 1:
            yield group


def _sizes(store: DataStore) -> dict[str, tuple[int, int, str]]:
    index = store.image_index
    columns = [index[c].to_pylist() for c in ("image_id", "height", "width", "sha256")]
    return {image_id: (h, w, sha) for image_id, h, w, sha in zip(*columns, strict=True)}


def _wrong_with(row: dict[str, Any], sizes: dict[str, tuple[int, int, str]]) -> Iterator[str]:
    size = (row["height"], row["width"])
    if row["status"] not in STATUSES:
        yield f"unknown status {row['status']!r}"
    if row["status"] != schema.STATUS_OK and (row["instances"] or not row["error"]):
        yield f"status {row['status']} with {len(row['instances'] or ())} instances and error {row['error']!r}"
    known = sizes.get(row["image_id"])
    if known is not None and known[2] != row["image_sha256"]:
        yield "the masks were made from another image file than the store's"
    elif known is not None and row["status"] == schema.STATUS_OK and known[:2] != size:
        yield f"the row has size {size}, the store's image {known[:2]}"
    previous = 1.0
    for number, instance in enumerate(row["instances"] or ()):
        if not 0 <= instance["score"] <= previous:
            yield f"instance {number}: score {instance['score']} after {previous}"
        previous = instance["score"]
        try:
            mask = checked_mask({"size": list(size), "counts": instance["rle"]}, *size)
        except ValueError as error:
            yield f"instance {number}: {error}"
            continue
        if rle.area(mask) != instance["area"]:
            yield f"instance {number}: area {instance['area']}, its mask has {rle.area(mask)} pixels"
        box = rle.bbox(mask)
        if any(abs(a - b) > BOX_TOLERANCE for a, b in zip(box, instance["bbox"], strict=True)):
            yield f"instance {number}: box {instance['bbox']}, its mask's is {box}"
