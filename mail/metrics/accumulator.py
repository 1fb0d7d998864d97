"""Pixel counts per expression: exact integers that can be gathered in any order and grouping.

Nothing is averaged here. A worker that saw part of a split holds the four integers of each of its expressions; merging
two accumulators is a union of dictionaries, so the result cannot depend on how many workers there were, and an
expression that comes twice or never is found out instead of being averaged away.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pycocotools import mask as coco_mask

from mail.errors import UserError, first_few
from mail.metrics.protocols import PROTOCOLS, Protocol
from mail.rle import RLE


class Counts(NamedTuple):
    """Pixels of one expression."""

    intersection: int
    union: int
    predicted: int
    target: int

    @property
    def no_target(self) -> bool:
        """The expression names nothing: its ground truth has no pixel."""
        return self.target == 0


def count(prediction: RLE | None, target: RLE, protocol: Protocol = PROTOCOLS["original"]) -> Counts:
    """Counts of one prediction (None: the empty mask) against its ground truth, without decoding either.

    Raises:
        ValueError: the two masks have different sizes.
    """
    if prediction is None:
        area = int(coco_mask.area(protocol.prepare(target)))
        return Counts(0, area, 0, area)
    if tuple(prediction["size"]) != tuple(target["size"]):
        (a, b), (c, d) = prediction["size"], target["size"]
        raise ValueError(f"the predicted mask is {a}x{b} (height x width), the image {c}x{d}")
    prediction, target = protocol.prepare(prediction), protocol.prepare(target)
    areas = coco_mask.area([prediction, target, coco_mask.merge([prediction, target], intersect=True)])
    predicted, wanted, intersection = (int(a) for a in areas)
    return Counts(intersection, predicted + wanted - intersection, predicted, wanted)


@dataclass
class Accumulator:
    """Counts by `expr_id`, under one protocol."""

    protocol: Protocol = PROTOCOLS["original"]
    counts: dict[str, Counts] = field(default_factory=dict)

    def add(self, expr_id: str, prediction: RLE | None, target: RLE) -> Counts:
        """Counts one expression.

        Raises:
            UserError: the expression was counted before, or its mask has another size than the image.
        """
        try:
            counts = count(prediction, target, self.protocol)
        except ValueError as error:
            raise UserError(f"{expr_id}: {error}; predictions must be in the image's original resolution") from None
        self._insert([(expr_id, counts)])
        return counts

    def merge(self, other: "Accumulator") -> "Accumulator":
        """A new accumulator with the expressions of both.

        Raises:
            UserError: the protocols differ or an expression is in both.
        """
        if other.protocol != self.protocol:
            raise UserError(f"cannot merge counts of protocols {self.protocol.name} and {other.protocol.name}")
        merged = Accumulator(self.protocol, dict(self.counts))
        merged._insert(other.counts.items())
        return merged

    def __len__(self) -> int:
        return len(self.counts)

    def check_coverage(self, expected: Collection[str]) -> None:
        """Refuses counts that are not exactly those of `expected`: each expression once, no other.

        Raises:
            UserError: expressions are missing or unknown; names the first few and the number of each.
        """
        wanted = set(expected)
        problems = []
        if missing := sorted(wanted - self.counts.keys()):
            problems.append(f"{len(missing)} of {len(wanted)} expressions are missing ({first_few(missing)})")
        if unknown := sorted(self.counts.keys() - wanted):
            problems.append(f"{len(unknown)} are not of this split ({first_few(unknown)})")
        if problems:
            raise UserError("the counts do not cover the split: " + "; ".join(problems))

    def _insert(self, items: Iterable[tuple[str, Counts]]) -> None:
        items = list(items)
        if doubled := sorted(e for e, _ in items if e in self.counts):
            raise UserError(f"{len(doubled)} expressions were counted twice ({first_few(doubled)})")
        self.counts.update(items)
