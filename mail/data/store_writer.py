"""Writes a data store (`mail.data.store`): images file by file as they come, the expressions and `store.json` last."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mail import addresses
from mail.data import files, schema
from mail.data.image_keys import ImageContent
from mail.data.parquet import WRITING
from mail.data.store import FORMAT_VERSION, DataFile, DataStore
from mail.errors import UserError
from mail.inventory import sealed

IMAGES_PER_ROW_GROUP = 8
EXPRESSIONS_PER_ROW_GROUP = 4096
TARGET_FILE_BYTES = 64 * 2**20  # while it is put together, some five times as much is in memory


class DataStoreWriter:
    """Writes a new store; `finish` makes it visible. Images may come in any order, expressions too.

    Images are written once a file's worth has come together, while those of the next one do: no more than two files'
    worth of their bytes is in memory. Add them sorted by id where you can: inside a file they are sorted, and the key
    ranges of two files overlap only where the input's order forces it.
    """

    def __init__(self, uri: str | os.PathLike, name: str):
        self.uri, self.name = addresses.absolute(uri), name
        self.filesystem, self.root = files.resolve(uri)
        files.check_writable(uri)
        if files.exists(self.filesystem, f"{self.root}/store.json"):
            raise UserError(f"{self.uri} already holds a data store: choose another --out or delete it first")
        self._images: list[dict] = []
        self._image_bytes = 0
        self._seen: dict[str, tuple[str, int, int, str]] = {}  # image_id -> file_name, height, width, sha256
        self._expressions: list[dict] = []
        self._tables: list[pa.Table] = []  # expressions so far: a tenth of the memory that dictionaries take
        self._image_files: list[Future[DataFile]] = []
        self._writing = ThreadPoolExecutor(1)  # a file, while the next one's images come together

    def check_space(self, sizes: Iterable[int]) -> None:
        """Raises UserError where photos of these sizes, in bytes, do not fit onto a local disk."""
        files.check_writable(self.uri, sum(sizes), "the photos")

    def add_image(
        self,
        *,
        image_id: str,
        file_name: str,
        image: bytes,
        height: int,
        width: int,
        content: ImageContent | None = None,
    ) -> None:
        """Adds an image once; the same id with other bytes is an error. `content`: of whoever has decoded it."""
        content = content or ImageContent.of(image)
        row = (file_name, height, width, content.sha256)
        known = self._seen.get(image_id)
        if known is not None and known[1:] == row[1:]:
            return
        if known is not None:
            raise UserError(f"image {image_id} ({file_name}) comes twice with different content: give it its own id")
        self._seen[image_id] = row
        values = (image_id, file_name, image, height, width, *content)
        self._images.append(dict(zip(schema.IMAGES.names, values, strict=True)))
        self._image_bytes += len(image)
        if self._image_bytes >= TARGET_FILE_BYTES:
            self._flush_images()

    def add_expression(self, **row: Any) -> None:
        """Adds an expression; fields as in `schema.EXPRESSIONS`, all of them."""
        if row.keys() != set(schema.EXPRESSIONS.names):
            raise ValueError(f"an expression has the fields {schema.EXPRESSIONS.names}, not {sorted(row)}")
        self._expressions.append(row)
        if len(self._expressions) >= EXPRESSIONS_PER_ROW_GROUP:
            self._flush_expressions()

    def finish(self, sources: Sequence[dict[str, Any]] = (), prepared_with: dict[str, Any] | None = None) -> DataStore:
        """Writes what is left and `store.json`; returns the finished store.

        Args:
            sources: the published files that were read, each `{"path", "sha256", "bytes"}`.
            prepared_with: the config of `prepare`, for the record.

        Raises:
            UserError: two expressions have the same id, or one names an image that was not added.
        """
        self._flush_images()
        self._flush_expressions()
        table = pa.concat_tables([schema.EXPRESSIONS.empty_table(), *self._tables]).combine_chunks()
        self._tables = []
        table = table.sort_by([("image_id", "ascending"), ("expr_id", "ascending")])
        self._check(table)
        expression_files = []
        rows = -(-len(table) // max(1, -(-table.nbytes // TARGET_FILE_BYTES)))  # of a file of about the target size
        for number, start in enumerate(range(0, len(table), max(1, rows))):
            part = table.slice(start, rows)
            expression_files.append(self._write("expressions", number, part, EXPRESSIONS_PER_ROW_GROUP))
        manifest = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "splits": _count_splits(table),
            "image_count": len(self._seen),
            "images": [vars(f.result()) for f in self._image_files],
            "expressions": [vars(f) for f in expression_files],
            "digest": self._digest(table),
            "sources": list(sources),
            "prepared_with": prepared_with or {},
        }
        files.write_bytes(self.filesystem, f"{self.root}/store.json", json.dumps(sealed(manifest), indent=2).encode())
        return DataStore(self.uri)

    def _check(self, table: pa.Table) -> None:
        counts = pc.value_counts(table["expr_id"])
        doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
        if doubled:
            raise UserError(f"{len(doubled)} expression ids come more than once, first: {', '.join(doubled[:3])}")
        lost = table.filter(pc.invert(pc.is_in(table["image_id"], pa.array(list(self._seen), pa.string()))))
        if len(lost):
            raise UserError(f"{len(lost)} expressions name an image that is not there, first: {lost['expr_id'][0]}")

    def _digest(self, table: pa.Table) -> str:
        """sha256 over every row, whatever files they are in and whichever pyarrow wrote them."""
        digest = hashlib.sha256(json.dumps([FORMAT_VERSION, self.name]).encode())
        for image_id, row in sorted(self._seen.items()):
            digest.update(json.dumps([image_id, *row]).encode())
        for batch in table.to_batches(max_chunksize=EXPRESSIONS_PER_ROW_GROUP):
            for row in batch.to_pylist():
                row["target"]["counts"] = row["target"]["counts"].decode("latin-1")
                digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()

    def _flush_images(self) -> None:
        if not self._images:
            return
        rows = sorted(self._images, key=itemgetter("image_id"))  # by code point, as Parquet's statistics have it
        table = pa.Table.from_pylist(rows, schema.IMAGES)
        self._images, self._image_bytes = [], 0
        if number := len(self._image_files):
            self._image_files[-1].result()  # never more than one, and what went wrong is told
        self._image_files.append(self._writing.submit(self._write, "images", number, table, IMAGES_PER_ROW_GROUP))

    def _flush_expressions(self) -> None:
        if self._expressions:
            self._tables.append(pa.Table.from_pylist(self._expressions, schema.EXPRESSIONS))
            self._expressions = []

    def _write(self, kind: str, number: int, table: pa.Table, row_group: int) -> DataFile:
        sink = pa.BufferOutputStream()
        # JPEG bytes do not compress further; the small columns would gain next to nothing
        pq.write_table(table, sink, row_group_size=row_group, compression="none", use_dictionary=False, **WRITING)
        data = sink.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        relative = f"{kind}/part-{number:05d}-{sha256[:12]}.parquet"
        files.write_bytes(self.filesystem, f"{self.root}/{relative}", data)
        keys = table["image_id"]
        return DataFile(relative, len(table), len(data), sha256, keys[0].as_py(), keys[-1].as_py())


def _count_splits(table: pa.Table) -> dict[str, dict[str, int]]:
    counts = table.group_by("split").aggregate(
        [("image_id", "count_distinct"), ("ref_id", "count_distinct"), ("expr_id", "count")]
    )
    names = {"images": "image_id_count_distinct", "refs": "ref_id_count_distinct", "expressions": "expr_id_count"}
    return {row["split"]: {k: row[v] for k, v in names.items()} for row in counts.sort_by("split").to_pylist()}
