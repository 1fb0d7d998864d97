"""The data store: a referring data set as Parquet, made once by `prepare` and never changed afterwards.

    STORE/store.json               name, counts per split, digests, source files; written last, so it marks completion
    STORE/images/*.parquet         one row an image, sorted by image_id, small row groups (random access in training)
    STORE/expressions/*.parquet    one row an expression, sorted by (image_id, expr_id)

Readers take the list of files from `store.json`, never from a listing.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mail import addresses, json_text
from mail.data import files, schema
from mail.data.parquet import ParquetReader
from mail.errors import UserError
from mail.inventory import is_sealed

FORMAT_VERSION = 1


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
        self.uri = addresses.absolute(uri)
        self.filesystem, self.root = files.resolve(uri)
        path = f"{self.root}/store.json"
        try:
            raw = files.read_bytes(self.filesystem, path)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.uri} is not a data store: it has no store.json (run `mail-ris prepare ... --out {self.uri}`)"
            ) from None
        try:
            self.manifest: dict[str, Any] = json_text.parse_object(raw)
            if not is_sealed(self.manifest):
                raise ValueError
            version = self.manifest["format_version"]
            if version == FORMAT_VERSION:
                self.image_files = [DataFile(**f) for f in self.manifest["images"]]
                self.expression_files = [DataFile(**f) for f in self.manifest["expressions"]]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.uri}/store.json is damaged, or no data store's manifest: prepare it again"
            ) from None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.uri} has data-store format {version}, this program reads {FORMAT_VERSION}: prepare it again"
            )

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def digest(self) -> str:
        """sha256 over the content of every row, the same for the same input wherever it was prepared."""
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
        tables = [pa.schema([schema.EXPRESSIONS.field(c) for c in wanted]).empty_table()]
        for file in self.expression_files:
            table = self.open(file).read(read)
            if splits is not None:
                table = table.filter(pc.is_in(table["split"], pa.array(list(splits), pa.string())))
            tables.append(table.select(wanted))
        return pa.concat_tables(tables)

    def image_keys(self, splits: Sequence[str]) -> dict[str, pa.Table]:
        """By split, what its images are known by (columns of `schema.IMAGE_KEYS`)."""
        keys = self._image_columns(schema.IMAGE_KEYS.names)
        table = self.expressions(splits, ["image_id", "split"]).group_by(["image_id", "split"]).aggregate([])
        images = {split: table.filter(pc.equal(table["split"], split))["image_id"] for split in splits}
        return {split: keys.filter(pc.is_in(keys["image_id"], ids)) for split, ids in images.items()}

    def images(self, columns: Sequence[str] | None = None, batch_size: int = 64) -> Iterator[pa.RecordBatch]:
        """All images in batches of at most `batch_size` rows; memory does not grow with the store.

        Columns that files of an earlier version lack are left out.
        """
        for file in map(self.open, self.image_files):
            yield from file.batches(file.present(columns or schema.IMAGES.names), batch_size)

    @cached_property
    def image_index(self) -> pa.Table:
        """image_id, height, width, sha256 of every image (no bytes), in the store's order."""
        return self._image_columns(["image_id", "height", "width", "sha256"])

    def image_ids(self) -> pa.Array:
        """Ids of all images, in the store's order."""
        return self._image_columns(["image_id"])["image_id"].combine_chunks()

    def _image_columns(self, columns: Sequence[str]) -> pa.Table:
        empty = pa.schema([schema.IMAGES.field(c) for c in columns]).empty_table()
        # promoted: what the files of an earlier version lack is null
        opened = map(self.open, self.image_files)
        tables = [file.read(file.present(columns)) for file in opened]
        return pa.concat_tables([empty, *tables], promote_options="default")

    def open(self, file: DataFile) -> ParquetReader:
        """Raises UserError if the file is missing or damaged."""
        return ParquetReader(self.filesystem, self.path(file))
