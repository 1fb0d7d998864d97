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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mail.data.expression_index import ExpressionIndex
from mail.errors import UserError

Rule = Literal["one-per-ref", "all"]
"""What an epoch is: one random expression of every ref, or all expressions of all refs."""

KEPT_WINDOWS = 4  # a batch rarely spans more; each is a few hundred numbers


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

    def positions(self, start: int, count: int) -> np.ndarray:
        """int64 (count,): positions in the index of `count` expressions of the stream from position `start` on."""
        found = [np.zeros(0, np.int64)]
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
        for step in range(start, stop):
            positions = self.positions(step * size, size)
            epoch = step * size // self.expressions_per_epoch
            rows, images = self.index.row[positions], self.index.image[positions]
            yield from shared_batches(step, epoch, rows, images, rank, world, micro_batch_size)

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


def shared_batches(
    step: int, epoch: int, rows: np.ndarray, images: np.ndarray, rank: int, world: int, micro_batch_size: int | None
) -> Iterator[Batch]:
    """The parts that worker `rank` of `world` has of a step's expressions; see `EpochPlan.batches`.

    Raises:
        UserError: there are more workers than expressions.
    """
    size = len(rows)
    if world > size:
        raise UserError(f"a global batch of {size} expressions cannot be shared by {world} workers: raise it")
    first, last = rank * size // world, (rank + 1) * size // world
    parts = 1 if micro_batch_size is None else -(-(last - first) // micro_batch_size)
    for part in range(parts):
        own = slice(first + part * (last - first) // parts, first + (part + 1) * (last - first) // parts)
        yield Batch(step, part, parts, epoch, rows[own], images[own], size)


def _bits(count: int, *seed: int) -> np.ndarray:
    """uint64 (count,) random bits that depend on the seed's numbers only."""
    return np.random.PCG64(np.random.SeedSequence(list(seed))).random_raw(count)


def _remember(cache: OrderedDict, key, value, size: int) -> None:
    cache[key] = value
    while len(cache) > size:
        cache.popitem(last=False)
