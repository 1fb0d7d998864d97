"""Which expressions make up which training batch: a pure function of the store, the seed and the step.

The order of training is a stream of expressions that never ends: epoch after epoch, each in its own random order. Step
s takes positions `s * G` to `(s + 1) * G` of it (G: global batch size), so no batch is short, no row is dropped at the
end of an epoch, and a run may resume at any step, in the middle of an epoch, with any number of workers.

An epoch's order is random and yet kind to the disk. The store's image row groups (8 images each) are permuted and
taken in windows; inside a window the *pieces* are shuffled, a piece being up to E expressions of one image, so that an
image's decode serves several of its expressions and a reader needs a window's row groups only for a short time. A
window is computed when a step first needs it: an epoch costs a permutation of the row groups, however many expressions.

Only integers and raw generator bits are used (`random_raw`, whose stream NumPy guarantees), so the order is the same on
every machine.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mail.data.store import DataFile, DataStore
from mail.errors import UserError

Rule = Literal["one-per-ref", "all"]
"""What an epoch is: one random expression of every ref, or all expressions of all refs."""

KEPT_WINDOWS = 4  # a batch rarely spans more; each is a few hundred numbers


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
        lengths, file_numbers, group_numbers = [], [], []
        for number, file in enumerate(data_files):
            metadata = pq.read_metadata(store.path(file), filesystem=store.filesystem)
            for group in range(metadata.num_row_groups):
                lengths.append(metadata.row_group(group).num_rows)
                file_numbers.append(number)
                group_numbers.append(group)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        paths = tuple(store.path(f) for f in data_files)
        return cls(paths, starts, np.array(file_numbers, np.int32), np.array(group_numbers, np.int32))

    def group_of(self, rows: np.ndarray) -> np.ndarray:
        """The row group (counted through all files) of every row number."""
        return np.searchsorted(self.starts, rows, side="right") - 1


@dataclass(frozen=True)
class ExpressionIndex:
    """The keys of a split's expressions, as numbers: 16 bytes an expression, sorted by image and ref.

    Attributes:
        row: int64 (N,), the expression's row number in the store's expression files.
        image: int32 (N,), its image's row number in the store's image files.
        ref: int32 (N,), a number for its ref.
        image_groups: the row groups of the image files; `expression_groups` those of the expression files.
        skipped_images, skipped_expressions: how many were left out because their image cannot be used.
    """

    row: np.ndarray
    image: np.ndarray
    ref: np.ndarray
    image_groups: RowGroups
    expression_groups: RowGroups
    skipped_images: int = 0
    skipped_expressions: int = 0

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def read(cls, store: DataStore, split: str, unusable: Collection[str] = ()) -> "ExpressionIndex":
        """Reads the key columns of a split (in batches; neither texts, nor targets, nor image bytes).

        Args:
            unusable: ids of images to leave out; those that cannot be decoded (height 0) are left out in any case.

        Raises:
            UserError: the store has no such split, or nothing is left of it.
        """
        store.check_split(split)
        image_ids, bad = _images(store, unusable)
        rows, images, refs = [], [], []
        first_row, next_ref = 0, 0
        open_refs: dict[str, int] = {}  # of the image that the last batch ended with: rows are sorted by image
        for file in store.expression_files:
            reader = pq.ParquetFile(store.path(file), filesystem=store.filesystem)
            for batch in reader.iter_batches(65536, columns=["image_id", "ref_id", "split"]):
                keep = np.flatnonzero(pc.equal(batch["split"], split).to_numpy(zero_copy_only=False))
                if len(keep):
                    kept = batch.take(pa.array(keep))
                    coded = kept["ref_id"].dictionary_encode()
                    numbers = {}
                    for ref_id in coded.dictionary.to_pylist():
                        if ref_id in open_refs:
                            numbers[ref_id] = open_refs[ref_id]
                        else:
                            numbers[ref_id] = next_ref
                            next_ref += 1
                    rows.append(first_row + keep.astype(np.int64))
                    images.append(pc.index_in(kept["image_id"], image_ids).to_numpy().astype(np.int32))
                    refs.append(np.fromiter(numbers.values(), np.int32)[coded.indices.to_numpy()])
                    last = pc.equal(kept["image_id"], kept["image_id"][-1])
                    open_refs = {r: numbers[r] for r in pc.unique(kept["ref_id"].filter(last)).to_pylist()}
                first_row += len(batch)
        row, image, ref = (np.concatenate(a) if a else np.zeros(0, np.int64) for a in (rows, images, refs))
        usable = ~bad[image] if len(row) else np.zeros(0, bool)
        if not usable.any():
            raise UserError(f"split {split!r} of {store.uri} has no expression whose image can be used")
        skipped = image[~usable]
        row, image, ref = row[usable], image[usable], ref[usable]
        order = np.lexsort((row, ref, image))
        return cls(
            row[order].astype(np.int64),
            image[order].astype(np.int32),
            ref[order].astype(np.int32),
            RowGroups.of(store, store.image_files),
            RowGroups.of(store, store.expression_files),
            len(np.unique(skipped)),
            len(skipped),
        )


def _images(store: DataStore, unusable: Collection[str]) -> tuple[pa.Array, np.ndarray]:
    """Ids of all images in row order, and which of them cannot be used."""
    batches = list(store.images(["image_id", "height"], batch_size=65536))
    table = pa.Table.from_batches(batches) if batches else pa.table({"image_id": pa.array([], pa.string())})
    if not len(table):
        raise UserError(f"{store.uri} holds no images")
    named = pc.is_in(table["image_id"], pa.array(sorted(unusable), pa.string()))
    bad = pc.or_(pc.equal(table["height"], 0), named).to_numpy()
    return table["image_id"].combine_chunks(), bad


@dataclass(frozen=True)
class Batch:
    """The expressions of one step that one worker computes in one forward pass.

    Attributes:
        step: number of the step, from 0. `part` of `parts`: position in the worker's gradient accumulation.
        epoch: epoch of the batch's first expression.
        rows: int64 (n,), expression row numbers. `images`: int32 (n,), the image row number of each.
        total: expressions in the whole global batch.
    """

    step: int
    part: int
    parts: int
    epoch: int
    rows: np.ndarray
    images: np.ndarray
    total: int


class EpochPlan:
    """The endless, reproducible order of training (see the module's text).

    Args:
        index: the split's expressions.
        global_batch_size: expressions in a step, over all workers.
        seed: seed of the order.
        rule: which expressions an epoch has.
        expressions_per_piece: at most so many expressions of one image follow each other.
        window_groups: image row groups that are shuffled together.
    """

    def __init__(
        self,
        index: ExpressionIndex,
        global_batch_size: int,
        seed: int = 0,
        rule: Rule = "one-per-ref",
        expressions_per_piece: int = 4,
        window_groups: int = 32,
    ):
        if rule not in ("one-per-ref", "all"):
            raise UserError(f"unknown sampling rule {rule!r}: choose one-per-ref or all")
        if min(global_batch_size, expressions_per_piece, window_groups) < 1:
            raise UserError("global batch size, expressions per piece and window groups must be at least 1")
        self.index, self.seed, self.rule = index, seed, rule
        self.global_batch_size, self.piece, self.window_groups = global_batch_size, expressions_per_piece, window_groups
        # a unit is what an epoch takes once: a ref (one of its expressions is drawn), or an expression
        count = len(index)
        if rule == "all":
            starts = np.arange(count + 1, dtype=np.int64)
        else:
            first = np.ones(count, bool)
            first[1:] = (np.diff(index.image) != 0) | (np.diff(index.ref) != 0)
            starts = np.append(np.flatnonzero(first), count).astype(np.int64)
        self._unit_starts = starts
        groups = index.image_groups.group_of(index.image[starts[:-1]])
        used, firsts = np.unique(groups, return_index=True)
        self._groups = used
        self._group_units = np.append(firsts, len(groups)).astype(np.int64)  # units of used[i]: [i] to [i + 1]
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_epochs": OrderedDict(), "_windows": OrderedDict()}

    @property
    def expressions_per_epoch(self) -> int:
        return len(self._unit_starts) - 1

    @property
    def steps_per_epoch(self) -> float:
        return self.expressions_per_epoch / self.global_batch_size

    def epoch(self, epoch: int) -> np.ndarray:
        """All of an epoch's expressions in order, as positions in the index (for tests and statistics)."""
        order, _ = self._epoch(epoch)
        windows = range(-(-len(order) // self.window_groups))
        return np.concatenate([self._window(epoch, w) for w in windows])

    def positions(self, start: int, count: int) -> np.ndarray:
        """int64 (count,): positions in the index of `count` expressions of the stream from position `start` on."""
        found = []
        while count > 0:
            epoch, offset = divmod(start, self.expressions_per_epoch)
            _, window_starts = self._epoch(epoch)
            window = int(np.searchsorted(window_starts, offset, side="right")) - 1
            within = offset - int(window_starts[window])
            part = self._window(epoch, window)[within : within + count]
            found.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(found)

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1, micro_batch_size: int | None = None
    ) -> Iterator[Batch]:
        """What worker `rank` of `world` computes in steps `start` to `stop` (without it), in order.

        A global batch is cut into `world` stretches whose lengths differ by one at most, each stretch into parts of at
        most `micro_batch_size` expressions. Together the workers have exactly the global batch, whatever their number.
        """
        size = self.global_batch_size
        if world > size:
            raise UserError(f"a global batch of {size} expressions cannot be shared by {world} workers: raise it")
        first, last = rank * size // world, (rank + 1) * size // world
        parts = 1 if micro_batch_size is None else -(-(last - first) // micro_batch_size)
        for step in range(start, stop):
            positions = self.positions(step * size + first, last - first)
            epoch = step * size // self.expressions_per_epoch
            for part in range(parts):
                own = positions[part * len(positions) // parts : (part + 1) * len(positions) // parts]
                yield Batch(step, part, parts, epoch, self.index.row[own], self.index.image[own], size)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of row groups, and where in the epoch each window starts."""
        if epoch not in self._epochs:
            order = np.argsort(_bits(len(self._groups), self.seed, epoch), kind="stable")
            sizes = np.diff(self._group_units)[order]
            window_sizes = np.add.reduceat(sizes, np.arange(0, len(order), self.window_groups))
            _remember(self._epochs, epoch, (order, np.append(0, np.cumsum(window_sizes))[:-1]), 2)
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """Positions in the index of a window's expressions, shuffled."""
        key = (epoch, window)
        if key not in self._windows:
            order, _ = self._epoch(epoch)
            groups = order[window * self.window_groups : (window + 1) * self.window_groups]
            ranges = [np.arange(self._group_units[g], self._group_units[g + 1]) for g in groups]
            units = np.concatenate(ranges)
            draw, within, across = _bits(3 * len(units), self.seed, epoch, window + 1).reshape(3, -1)
            starts = self._unit_starts[units]
            sizes = (self._unit_starts[units + 1] - starts).astype(np.uint64)
            chosen = starts + (draw % sizes).astype(np.int64)
            _remember(self._windows, key, self._shuffle_pieces(chosen, within, across), KEPT_WINDOWS)
        return self._windows[key]

    def _shuffle_pieces(self, chosen: np.ndarray, within: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Shuffles each image's expressions, cuts them into pieces and shuffles the pieces."""
        image = self.index.image[chosen]
        order = np.lexsort((within, image))
        chosen, image = chosen[order], image[order]
        new_image = np.append(True, np.diff(image) != 0)
        position = np.arange(len(image))
        rank_in_image = position - np.maximum.accumulate(np.where(new_image, position, 0))
        new_piece = rank_in_image % self.piece == 0
        piece = np.cumsum(new_piece) - 1
        key = across[: piece[-1] + 1][piece]
        return chosen[np.lexsort((position, piece, key))]


def _bits(count: int, *seed: int) -> np.ndarray:
    """uint64 (count,) random bits that depend on the seed's numbers only."""
    return np.random.PCG64(np.random.SeedSequence(list(seed))).random_raw(count)


def _remember(cache: OrderedDict, key, value, size: int) -> None:
    cache[key] = value
    while len(cache) > size:
        cache.popitem(last=False)
