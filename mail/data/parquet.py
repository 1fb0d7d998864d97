"""The one way in which Parquet files are opened: again where an object store stumbled, one line where one is damaged.

Pages carry a checksum (`WRITING`), which is looked at as they are read: a damaged file is never taken for other data.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mail.data import files
from mail.errors import UserError

T = TypeVar("T")
WRITING: dict[str, Any] = {"write_page_checksum": True}


class ParquetReader:
    """An open file.

    Args:
        path: inside `filesystem`.

    Raises:
        UserError: the file is missing, damaged or no Parquet file; also from every method.
    """

    def __init__(self, filesystem: fs.FileSystem, path: str | os.PathLike):
        self.path = os.fspath(path)
        # nested columns are read in one go: few large reads on an object store
        open_file = functools.partial(
            pq.ParquetFile, self.path, filesystem=filesystem, pre_buffer=True, page_checksum_verification=True
        )
        self._file: pq.ParquetFile = self._told(open_file)
        self.schema: pa.Schema = self._told(lambda: self._file.schema_arrow)

    @property
    def metadata(self) -> pq.FileMetaData:
        return self._file.metadata

    def present(self, columns: Sequence[str]) -> list[str]:
        """Those of the columns that the file has."""
        return [name for name in columns if name in self.schema.names]

    def key_ranges(self, column: str) -> tuple[list[Any], list[Any]]:
        """Least and greatest value of a column in each row group, by its statistics."""
        place = self.schema.get_field_index(column)

        def read() -> tuple[list[Any], list[Any]]:
            found = [self.metadata.row_group(g).column(place).statistics for g in range(self.metadata.num_row_groups)]
            return [s.min for s in found], [s.max for s in found]

        return self._told(read)

    def read(self, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> pa.Table:
        """Columns (default: all) of row groups (default: all)."""
        self._check(columns or ())
        wanted = list(range(self.metadata.num_row_groups) if groups is None else groups)
        names = None if columns is None else list(columns)
        return self._told(lambda: self._file.read_row_groups(wanted, columns=names, use_threads=False))

    def batches(self, columns: Sequence[str] | None = None, batch_size: int = 1024) -> Iterator[pa.RecordBatch]:
        """All rows in batches of at most `batch_size`, a row group in memory at a time."""
        for group in range(self.metadata.num_row_groups):
            yield from self.read(columns, [group]).to_batches(batch_size)

    def _check(self, columns: Sequence[str]) -> None:
        if missing := [name for name in columns if name not in self.schema.names]:
            raise UserError(f"{self.path} has no column {', '.join(missing)}: it has {', '.join(self.schema.names)}")

    def _told(self, read: Callable[[], T]) -> T:
        try:
            return files.persistently(read)
        except FileNotFoundError:
            raise UserError(f"{self.path} is missing, though it is listed: copy or make it again") from None
        except (pa.ArrowException, OSError, AttributeError, UnicodeError, MemoryError) as error:
            if "AWS Error" in str(error):
                raise
            what = "cannot be read" if isinstance(error, OSError) and error.errno else "is damaged"
            reason = str(error) or type(error).__name__
            raise UserError(f"{self.path:.500} {what} ({reason:.200}): copy or make it again") from None
