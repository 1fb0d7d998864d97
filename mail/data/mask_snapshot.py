"""Reading a mask table: the rows of one proposer as one version names them, and nothing that came later."""

import functools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from mail import json_text
from mail.data import files, schema
from mail.data.mask_log import MaskFile
from mail.data.origins import Origin
from mail.data.parquet import ParquetReader
from mail.errors import UserError
from mail.inventory import SEAL, is_sealed, sealed
from mail.proposals import Proposals

OPEN_FILES = 64  # footers kept in memory
CONTENT = "content"


@dataclass
class MaskSnapshot:
    """The rows of one proposer as of one version. Cheap to send to workers; it opens files as it needs them.

    Attributes:
        uri: the table's address.
        version, digest: the table's; the digest stands for all that the snapshot will ever return.
        proposer: what the table knows of the proposer (`id`, `name`, `trained_on`, `leaky`, ...).
        files: sorted by their first image id.
    """

    uri: str
    version: int
    digest: str
    proposer_id: str
    proposer: dict[str, Any]
    files: tuple[MaskFile, ...]

    def __len__(self) -> int:
        """Number of rows (images)."""
        return sum(f.rows for f in self.files)

    @property
    def lineage(self) -> dict[str, Any]:
        """What a run records about the masks it read."""
        keep = {"uri": self.uri, "version": self.version, "digest": self.digest, "proposer_id": self.proposer_id}
        return {**keep, "leaky": bool(self.proposer.get("leaky"))}

    def read(self, image_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of these images, in this order; images without a row are left out.

        Opens only the files, and reads only the row groups, whose key range can hold one of them.
        """
        names = list(columns) if columns else schema.MASK_FILE.names
        read = list(dict.fromkeys(["image_id", *names]))
        wanted = sorted(set(image_ids))
        parts = []
        for file in self.files:
            near = wanted[bisect_left(wanted, file.first_image_id) : bisect_right(wanted, file.last_image_id)]
            if not near:
                continue
            opened = _opened(self.uri, file.path)
            if groups := opened.groups(near):
                part = opened.parquet.read(read, groups)
                parts.append(part.filter(pc.is_in(part["image_id"], value_set=pa.array(near, pa.string()))))
            opened.check_missing(set(near).difference(parts[-1]["image_id"].to_pylist() if groups else ()))
        if not parts:
            return pa.schema([schema.MASK_FILE.field(c) for c in names]).empty_table()
        table = pa.concat_tables(parts)
        order = pc.index_in(pa.array(list(image_ids), pa.string()), value_set=table["image_id"].combine_chunks())
        return table.take(order.drop_null()).select(names)

    def proposals(self, image_ids: Sequence[str]) -> dict[str, Proposals]:
        """Proposals by image id; an image whose row says an error has none, an image without a row is not there."""
        rows = self.read(image_ids, ["image_id", "height", "width", "instances"]).to_pylist()
        return {r["image_id"]: Proposals.from_rows(r["instances"], (r["height"], r["width"])) for r in rows}

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 1024) -> Iterator[pa.RecordBatch]:
        """All rows, file by file; memory does not grow with the table."""
        filesystem, root = files.resolve(self.uri)
        for file in self.files:
            yield from ParquetReader(filesystem, f"{root}/{file.path}").batches(columns, batch_size)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows as dictionaries."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()

    def check_covers(self, image_ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> None:
        """Raises UserError, with the first few names, if an image has no row."""
        wanted = set(image_ids.to_pylist() if hasattr(image_ids, "to_pylist") else image_ids)
        missing = set(wanted)
        for batch in self.batches(["image_id"], batch_size=65536):
            missing.difference_update(batch["image_id"].to_pylist())
        if missing:
            raise UserError(
                f"{self.uri} has no masks of {len(missing)} of {len(wanted)} images by {self.proposer_id}, first: "
                f"{', '.join(sorted(missing)[:3])}; run `mail-ris precompute` on this data store"
            )

    def origin(self) -> Origin:
        """What the proposer saw in training, as far as the table knows."""
        return read_origin(self.uri, self.proposer_id)


class _OpenFile:
    """A data file with the key range of each of its row groups at hand."""

    def __init__(self, parquet: ParquetReader):
        self.parquet = parquet
        self._first, self._last = parquet.key_ranges("image_id")

    def groups(self, wanted: Sequence[str]) -> list[int]:
        """Row groups that can hold one of the ids; the file is sorted, so each id is in one group at most."""
        near = ((bisect_right(self._first, image_id) - 1, image_id) for image_id in wanted)
        return sorted({group for group, image_id in near if group >= 0 and image_id <= self._last[group]})

    def check_missing(self, missing: set[str]) -> None:
        """Raises UserError if the file has one of the ids: unlike its pages, its key ranges carry no checksum."""
        if missing and not missing.isdisjoint(self._keys):
            raise UserError(f"{self.parquet.path} is damaged (its key ranges are not its rows'): copy or make it again")

    @functools.cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(self.parquet.read(["image_id"])["image_id"].to_pylist())


@functools.lru_cache(OPEN_FILES)  # a file's name is never used again
def _opened(uri: str, path: str) -> _OpenFile:
    filesystem, root = files.resolve(uri)
    return _OpenFile(ParquetReader(filesystem, f"{root}/{path}"))


def proposer_path(root: str, proposer_id: str, what: str) -> str:
    """Where a table keeps what is known of a proposer; Delta takes nothing in a folder with a `_` for data."""
    return f"{root}/_proposers/{quote(proposer_id, safe='')}.{what}.json"


def read_origin(uri: str, proposer_id: str) -> Origin:
    """What a table knows of what a proposer saw in training."""
    try:
        return Origin.from_json(read_proposer(uri, proposer_id, "images"))
    except ValueError as error:
        raise UserError(f"{uri} is damaged: what it knows of {proposer_id} is not readable ({error})") from None


def read_proposer(uri: str, proposer_id: str, what: str) -> Any:
    """What a table knows of a proposer, `info` or `images` (an origin); None if nothing."""
    filesystem, root = files.resolve(uri)
    try:
        kept = json_text.parse(files.read_bytes(filesystem, proposer_path(root, proposer_id, what)))
        if not isinstance(kept, dict) or not {CONTENT, SEAL} & kept.keys():
            return kept  # an earlier version's, without a digest
        if not {CONTENT, SEAL} <= kept.keys() or not is_sealed(kept):
            raise ValueError("it is not what was written")
        return kept[CONTENT]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{uri} is damaged: what it knows of {proposer_id} is not readable ({error})") from None


def keep_proposer(uri: str, proposer_id: str, what: str, content: Any) -> None:
    """Writes what `read_proposer` reads, with a digest."""
    filesystem, root = files.resolve(uri)
    files.write_bytes(
        filesystem, proposer_path(root, proposer_id, what), json.dumps(sealed({CONTENT: content})).encode()
    )
