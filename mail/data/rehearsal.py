"""Two data stores as one order of training: a share of every batch is rehearsed, from what was learned before.

Of the first s steps' expressions, s * G of them, the share is rehearsed, rounded down: so a step has as many as it must
for that, one more or less than the next. Each store has its own endless order (`mail.data.epoch_plan`) and each step
takes the next of both: what a step has is a function of (seed, step) still, for any number of workers.

The rehearsed store's rows follow the other's: row numbers from `offset` on are its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa

from mail.data.epoch_plan import Batch, EpochPlan, shared_batches
from mail.data.expression_index import ExpressionIndex
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.row_groups import RowReader
from mail.errors import UserError
from mail.proposals import Proposals


@dataclass(frozen=True)
class JoinedRows:
    """Rows of two stores by number, those of the second from `offset` on."""

    first: RowReader
    second: RowReader
    offset: int

    def take(self, rows: np.ndarray) -> pa.Table:
        """As `RowReader.take`."""
        old = rows >= self.offset
        parts = [
            reader.take(own)
            for reader, own in ((self.first, rows[~old]), (self.second, rows[old] - self.offset))
            if len(own)
        ]
        where = np.concatenate([np.flatnonzero(~old), np.flatnonzero(old)])
        return pa.concat_tables(parts).take(pa.array(np.argsort(where)))


@dataclass(frozen=True)
class JoinedMasks:
    """Instance masks of two tables; of an image that both have, the first one's."""

    first: MaskSnapshot
    second: MaskSnapshot

    def proposals(self, image_ids: Sequence[str]) -> dict[str, Proposals]:
        """As `MaskSnapshot.proposals`."""
        found = self.first.proposals(image_ids)
        missing = [image_id for image_id in image_ids if image_id not in found]
        return found | (self.second.proposals(missing) if missing else {})


class RehearsedPlan:
    """An `EpochPlan` of which a share of every step is another plan's.

    Args:
        own: the order of the data that is to be learned. old: of the data that is rehearsed.
        share: of the expressions that are rehearsed, between 0 and 1.
        offsets: number of the first expression row and of the first image row of `old`.
    """

    def __init__(self, own: EpochPlan, old: EpochPlan, share: float, offsets: tuple[int, int]):
        if not 0 < share < 1:
            raise UserError(f"the share that is rehearsed is {share}: it must lie between 0 and 1")
        self.own, self.old, self.offsets = own, old, offsets
        self.share = Fraction(str(share))
        self.global_batch_size, self.piece = own.global_batch_size, min(own.piece, old.piece)

    @property
    def index(self) -> ExpressionIndex:
        """Of the data that is to be learned."""
        return self.own.index

    @property
    def expressions_per_epoch(self) -> int:
        return self.own.expressions_per_epoch

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which the data that is to be learned is seen once."""
        return float(self.own.expressions_per_epoch / (self.global_batch_size * (1 - self.share)))

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1, micro_batch_size: int | None = None
    ) -> Iterator[Batch]:
        """As `EpochPlan.batches`."""
        size = self.global_batch_size
        for step in range(start, stop):
            before, after = self._rehearsed(step), self._rehearsed(step + 1)
            new = self.own.positions(step * size - before, size - (after - before))
            old = self.old.positions(before, after - before)
            rows = np.append(self.own.index.row[new], self.old.index.row[old] + self.offsets[0])
            images = np.append(self.own.index.image[new], self.old.index.image[old] + self.offsets[1])
            epoch = (step * size - before) // self.own.expressions_per_epoch
            yield from shared_batches(step, epoch, rows, images.astype(np.int32), rank, world, micro_batch_size)

    def _rehearsed(self, steps: int) -> int:
        """Expressions that are rehearsed in the first `steps` steps."""
        return int(steps * self.global_batch_size * self.share)
