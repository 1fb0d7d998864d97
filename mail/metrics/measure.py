"""From counts to the numbers of the field."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mail.metrics.accumulator import Counts
from mail.metrics.protocols import PROTOCOLS, Protocol

PRECISION_TENTHS = (5, 6, 7, 8, 9)  # Prec@.5 is reported as "0.5"


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The figures of a set of expressions, fractions between 0 and 1; None where there is nothing to divide by.

    Attributes:
        expressions: how many were counted.
        no_target: how many of them name nothing.
        oIoU: sum of intersections over sum of unions.
        mIoU: mean of the expressions' IoU.
        prec: share of the targeted expressions with IoU >= X, by X.
        gIoU: mean IoU where a correct no-target counts 1 and a missed one 0 (gRefCOCO).
        cIoU: as oIoU; a missed no-target adds its predicted pixels to the union (gRefCOCO).
        n_acc: share of the no-target expressions predicted empty.
        t_acc: share of the targeted expressions not predicted empty.
    """

    expressions: int
    no_target: int
    oIoU: float | None
    mIoU: float | None
    prec: dict[str, float | None]
    gIoU: float | None
    cIoU: float | None
    n_acc: float | None
    t_acc: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; N-acc and T-acc under the names of the gRefCOCO paper."""
        values = asdict(self)
        values["N-acc"], values["T-acc"] = values.pop("n_acc"), values.pop("t_acc")
        return values


def iou(counts: Counts, protocol: Protocol = PROTOCOLS["original"]) -> float:
    """IoU of one expression; empty against empty is what the protocol says."""
    return counts.intersection / counts.union if counts.union else protocol.empty_iou


def measure(
    counts: Mapping[str, Counts], protocol: Protocol = PROTOCOLS["original"], only: Collection[str] | None = None
) -> Measures:
    """Figures of all expressions in `counts`, or of those in `only`.

    Integers are summed exactly and the mean of IoUs is the correctly rounded one (`math.fsum`), so the result does not
    depend on the order of the expressions.
    """
    chosen = list(counts.values()) if only is None else [counts[e] for e in only]
    table = np.array(chosen, dtype=np.int64).reshape(-1, 4)
    intersection, union, predicted, target = table.T
    targeted = target > 0
    ious = [iou(c, protocol) for c in chosen]
    # a correct no-target is worth 1 in gIoU under every protocol
    generalised = [1.0 if c.union == 0 else value for c, value in zip(chosen, ious, strict=True)]
    overall = _ratio(int(intersection.sum()), int(union.sum()))
    hits: dict[str, float | None] = {}
    for tenths in PRECISION_TENTHS:
        # IoU >= X in whole numbers: no expression falls off the edge by rounding
        left, right = 10 * intersection[targeted], tenths * union[targeted]
        reached = left > right if protocol.strict else left >= right
        hits[f"0.{tenths}"] = _ratio(int(reached.sum()), int(targeted.sum()))
    return Measures(
        expressions=len(chosen),
        no_target=int((~targeted).sum()),
        oIoU=overall,
        mIoU=_ratio(math.fsum(ious), len(chosen)),
        prec=hits,
        gIoU=_ratio(math.fsum(generalised), len(chosen)),
        cIoU=overall,
        n_acc=_ratio(int((~targeted & (predicted == 0)).sum()), int((~targeted).sum())),
        t_acc=_ratio(int((targeted & (predicted > 0)).sum()), int(targeted.sum())),
    )


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
