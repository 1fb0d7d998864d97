"""The data store: a referring data set as Parquet, made once by `prepare` and never changed afterwards.

    STORE/store.json               name, counts per split, digests, source files; written last, so it marks completion
    STORE/images/*.parquet         one row an image, sorted by image_id, small row groups (random access in training)
    STORE/expressions/*.parquet    one row an expression, sorted by (image_id, expr_id)

Readers take the list of files from `store.json`, never from a listing.
"""

import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mail.data import files, schema
from mail.errors import UserError

FORMAT_VERSION = 1
IMAGES_PER_ROW_GROUP = 8
EXPRESSIONS_PER_ROW_GROUP = 4096
TARGET_FILE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a store, as `store.json` lists it."""

    path: str  # relative to the store
    rows: int
    bytes: int
    sha256: str
    first_image_id: str  # smallest and largest key, to skip files that cannot hold an image
    last_image_id: str


class DataStore:
    """Read access to a data store at a local path or `s3://` address.

    Raises:
        UserError: there is no store, or it was written by another format version.
    """

    def __init__(self, uri: str | os.PathLike):
        self.uri = os.fspath(uri)
        self.filesystem, self.root = files.resolve(uri)
        path = f"{self.root}/store.json"
        try:
            raw = files.read_bytes(self.filesystem, path)
        except FileNotFoundError:
            raise UserError(
                f"{self.uri} is not a data store: it has no store.json (run `mail-ris prepare ... --out {self.uri}`)"
            ) from None
        self.manifest: dict[str, Any] = json.loads(raw)
        if self.manifest["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{self.uri} has data-store format {self.manifest['format_version']}, this program reads "
                f"{FORMAT_VERSION}: prepare it again"
            )
        self.image_files = [DataFile(**f) for f in self.manifest["images"]]
        self.expression_files = [DataFile(**f) for f in self.manifest["expressions"]]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def digest(self) -> str:
        """sha256 over the content (files and counts), the same for the same input wherever it was prepared."""
        return self.manifest["digest"]

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Per split the number of `images`, `refs` and `expressions`."""
        return self.manifest["splits"]

    def path(self, file: DataFile) -> str:
        """Path of a data file inside `self.filesystem`."""
        return f"{self.root}/{file.path}"

    def check_split(self, split: str) -> str:
        if split not in self.splits:
            raise UserError(f"{self.uri} has no split {split!r}: it has {', '.join(sorted(self.splits))}")
        return split

    def expressions(self, splits: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Expressions of the given splits (all of them for None) in the store's order."""
        for split in splits or ():
            self.check_split(split)
        wanted = list(columns) if columns else schema.EXPRESSIONS.names
        read = wanted if splits is None else list(dict.fromkeys([*wanted, "split"]))
        tables = []
        for file in self.expression_files:
            table = pq.read_table(self.path(file), columns=read, filesystem=self.filesystem)
            if splits is not None:
                table = table.filter(pc.is_in(table["split"], pa.array(list(splits), pa.string())))
            tables.append(table.select(wanted))
        empty = pa.schema([schema.EXPRESSIONS.field(c) for c in wanted]).empty_table()
        return pa.concat_tables(tables) if tables else empty

    def images(self, columns: Sequence[str] | None = None, batch_size: int = 64) -> Iterator[pa.RecordBatch]:
        """All images in batches of at most `batch_size` rows; memory does not grow with the store."""
        for file in self.image_files:
            reader = pq.ParquetFile(self.path(file), filesystem=self.filesystem)
            yield from reader.iter_batches(batch_size=batch_size, columns=list(columns) if columns else None)

    @cached_property
    def image_index(self) -> pa.Table:
        """image_id, height, width, sha256 of every image (no bytes), in the store's order."""
        columns = ["image_id", "height", "width", "sha256"]
        batches = list(self.images(columns, batch_size=65536))
        return pa.Table.from_batches(batches, pa.schema([schema.IMAGES.field(c) for c in columns]))


class DataStoreWriter:
    """Writes a new store; `finish` makes it visible. Images may come in any order, expressions too.

    Images are streamed to disk once a file's worth has come together. Add them sorted by id where you can: inside a
    file they are sorted, and the key ranges of two files overlap only where the input's order forces it.
    """

    def __init__(self, uri: str | os.PathLike, name: str):
        self.uri, self.name = os.fspath(uri), name
        self.filesystem, self.root = files.resolve(uri)
        if files.exists(self.filesystem, f"{self.root}/store.json"):
            raise UserError(f"{self.uri} already holds a data store: choose another --out or delete it first")
        self._images: list[dict] = []
        self._image_bytes = 0
        self._seen: dict[str, str] = {}
        self._expressions: list[dict] = []
        self._image_files: list[DataFile] = []

    def add_image(self, *, image_id: str, file_name: str, image: bytes, height: int, width: int) -> None:
        """Adds an image once; the same id with other bytes is an error."""
        sha256 = hashlib.sha256(image).hexdigest()
        known = self._seen.get(image_id)
        if known == sha256:
            return
        if known is not None:
            raise UserError(f"image {image_id} ({file_name}) comes twice with different content: give it its own id")
        self._seen[image_id] = sha256
        row = {"image_id": image_id, "file_name": file_name, "image": image, "height": height, "width": width}
        self._images.append({**row, "sha256": sha256})
        self._image_bytes += len(image)
        if self._image_bytes >= TARGET_FILE_BYTES:
            self._flush_images()

    def add_expression(self, **row: Any) -> None:
        """Adds an expression; fields as in `schema.EXPRESSIONS`."""
        self._expressions.append(row)

    def finish(self, sources: Sequence[dict[str, Any]] = (), prepared_with: dict[str, Any] | None = None) -> DataStore:
        """Writes what is left and `store.json`; returns the finished store.

        Args:
            sources: the published files that were read, each `{"path", "sha256", "bytes"}`.
            prepared_with: the config of `prepare`, for the record.
        """
        self._flush_images()
        rows = sorted(self._expressions, key=lambda r: (r["image_id"], r["expr_id"]))
        seen = Counter(r["expr_id"] for r in rows)
        if doubled := [e for e, n in seen.items() if n > 1]:
            raise UserError(f"{len(doubled)} expression ids come more than once, first: {', '.join(doubled[:3])}")
        if unknown := [r["expr_id"] for r in rows if r["image_id"] not in self._seen]:
            raise UserError(f"{len(unknown)} expressions name an image that is not there, first: {unknown[0]}")
        expression_files = []
        if rows:
            table = pa.Table.from_pylist(rows, schema.EXPRESSIONS)
            expression_files.append(self._write("expressions", 0, table, EXPRESSIONS_PER_ROW_GROUP))
        content = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "splits": _count_splits(rows),
            "image_count": len(self._seen),
            "images": [vars(f) for f in self._image_files],
            "expressions": [vars(f) for f in expression_files],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        manifest = {**content, "digest": digest, "sources": list(sources), "prepared_with": prepared_with or {}}
        files.write_bytes(self.filesystem, f"{self.root}/store.json", json.dumps(manifest, indent=2).encode())
        return DataStore(self.uri)

    def _flush_images(self) -> None:
        if not self._images:
            return
        self._images.sort(key=lambda r: r["image_id"])
        table = pa.Table.from_pylist(self._images, schema.IMAGES)
        self._image_files.append(self._write("images", len(self._image_files), table, IMAGES_PER_ROW_GROUP))
        self._images, self._image_bytes = [], 0

    def _write(self, kind: str, number: int, table: pa.Table, row_group: int) -> DataFile:
        buffer = io.BytesIO()
        # JPEG bytes do not compress further; the small columns would gain next to nothing
        pq.write_table(table, buffer, row_group_size=row_group, compression="none", use_dictionary=False)
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        relative = f"{kind}/part-{number:05d}-{sha256[:12]}.parquet"
        files.write_bytes(self.filesystem, f"{self.root}/{relative}", data)
        keys = table["image_id"]
        return DataFile(relative, len(table), len(data), sha256, keys[0].as_py(), keys[-1].as_py())


def _count_splits(rows: Sequence[dict]) -> dict[str, dict[str, int]]:
    images: dict[str, set] = defaultdict(set)
    refs: dict[str, set] = defaultdict(set)
    expressions: Counter[str] = Counter()
    for row in rows:
        images[row["split"]].add(row["image_id"])
        refs[row["split"]].add(row["ref_id"])
        expressions[row["split"]] += 1
    return {
        s: {"images": len(images[s]), "refs": len(refs[s]), "expressions": expressions[s]} for s in sorted(expressions)
    }
