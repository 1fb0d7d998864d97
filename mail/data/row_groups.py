"""Rows of a data store's Parquet files by number: where they are, and reading any of them in any order."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from mail.data import files
from mail.data.parquet import ParquetReader
from mail.data.store import DataFile, DataStore

OPEN_FILES = 16


@dataclass(frozen=True)
class RowGroups:
    """Where the rows of a list of Parquet files are: row numbers go through all files in order.

    Attributes:
        files: the files' paths inside the store's file system.
        starts: int64 (groups + 1), the first row number of every row group, and the end.
        file: int32 (groups,), which file a row group is in; `group` int32 (groups,), its number there.
    """

    files: tuple[str, ...]
    starts: np.ndarray
    file: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, store: DataStore, data_files: Collection[DataFile]) -> "RowGroups":
        """Reads the files' footers (nothing else)."""
        paths = tuple(store.path(file) for file in data_files)
        footers = [store.open(file).metadata for file in data_files]
        found = [(n, g, f.row_group(g).num_rows) for n, f in enumerate(footers) for g in range(f.num_row_groups)]
        file, group, length = np.array(found, np.int64).reshape(-1, 3).T
        return cls(paths, np.append(0, np.cumsum(length)), file.astype(np.int32), group.astype(np.int32))

    def group_of(self, rows: np.ndarray) -> np.ndarray:
        """The row group (counted through all files) of every row number."""
        return np.searchsorted(self.starts, rows, side="right") - 1


class RowReader:
    """Rows of Parquet files by number. Row groups are kept until `cache_bytes` are held, the least used go first.

    Cheap to send to other processes: what it keeps stays behind.
    """

    def __init__(self, uri: str, groups: RowGroups, columns: Sequence[str], cache_bytes: int):
        self._arguments = (uri, groups, columns, cache_bytes)
        self._groups, self._columns, self._limit = groups, list(columns), cache_bytes
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._held = 0
        filesystem, _ = files.resolve(uri)
        self._file = lru_cache(OPEN_FILES)(lambda number: ParquetReader(filesystem, groups.files[number]))

    def __reduce__(self) -> tuple[Any, ...]:
        return RowReader, self._arguments

    def take(self, rows: np.ndarray) -> pa.Table:
        """The rows in the order asked for; one may come more than once."""
        groups = self._groups.group_of(rows)
        parts, where = [], []
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            parts.append(self._table(int(group)).take(pa.array(rows[mine] - self._groups.starts[group])))
            where.append(mine)
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(where))))

    def _table(self, group: int) -> pa.Table:
        if group in self._tables:
            self._tables.move_to_end(group)
            return self._tables[group]
        file = self._file(int(self._groups.file[group]))
        table = file.read(self._columns, [int(self._groups.group[group])])
        self._tables[group] = table
        self._held += table.nbytes
        while self._held > self._limit and len(self._tables) > 1:
            self._held -= self._tables.popitem(last=False)[1].nbytes
        return table
