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
    """Pixels of one expression.

    Attributes:
        targeted: whether the annotation has a target; None: as `target` says.
        said: whether the prediction says that nothing is meant; None: as `predicted` says.
    """

    intersection: int
    union: int
    predicted: int
    target: int
    targeted: bool | None = None
    said: bool | None = None

    @property
    def no_target(self) -> bool:
        """The expression names nothing."""
        return self.target == 0 if self.targeted is None else not self.targeted

    @property
    def says_nothing(self) -> bool:
        """The prediction is that it names nothing."""
        return self.predicted == 0 if self.said is None else self.said


def count(
    prediction: RLE | None, target: RLE, protocol: Protocol = PROTOCOLS["original"], no_target: bool | None = None
) -> Counts:
    """Counts of one prediction (None: the empty mask) against its ground truth, without decoding either.

    Args:
        prediction: of the target's size, or of the protocol's, at which it is counted as it is.
        no_target: what the prediction says beside its mask; None: nothing. Only some protocols listen.

    Raises:
        ValueError: the prediction has another size.
    """
    if prediction is not None and tuple(prediction["size"]) not in (tuple(target["size"]), protocol.resolution):
        (a, b), (c, d) = prediction["size"], target["size"]
        raise ValueError(f"the predicted mask is {a}x{b} (height x width), the image {c}x{d}")
    targeted, said = bool(coco_mask.area(target)), prediction is None or not coco_mask.area(prediction)
    if protocol.flags and no_target is not None:
        said = no_target
    target = protocol.prepare(target)
    if prediction is None:
        predicted, wanted, intersection = 0, int(coco_mask.area(target)), 0
    else:
        prediction = protocol.prepare(prediction)
        areas = coco_mask.area([prediction, target, coco_mask.merge([prediction, target], intersect=True)])
        predicted, wanted, intersection = (int(a) for a in areas)
    union = predicted + wanted - intersection
    if protocol.flags and said:
        intersection, union = 0, union if targeted else 0
    return Counts(
        intersection,
        union,
        predicted,
        wanted,
        None if targeted == (wanted > 0) else targeted,
        None if said == (predicted == 0) else said,
    )


@dataclass
class Accumulator:
    """Counts by `expr_id`, under one protocol."""

    protocol: Protocol = PROTOCOLS["original"]
    counts: dict[str, Counts] = field(default_factory=dict)

    def add(self, expr_id: str, prediction: RLE | None, target: RLE, no_target: bool | None = None) -> Counts:
        """Counts one expression; see `count`.

        Raises:
            UserError: the expression was counted before, or its mask has another size than the image.
        """
        try:
            counts = count(prediction, target, self.protocol, no_target)
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
