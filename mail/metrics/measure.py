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
        prec: share of the targeted expressions with IoU >= X, by X (or as the protocol counts it).
        gIoU: mean IoU where a correct no-target counts 1 and a missed one 0 (gRefCOCO).
        cIoU: as oIoU; a missed no-target adds its predicted pixels to the union (gRefCOCO).
        n_acc: share of the no-target expressions that are predicted to name nothing.
        t_acc: share of the targeted expressions that are not.
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
    """IoU of one expression; that nothing is meant where nothing is, is worth what the protocol says."""
    if counts.union:
        return counts.intersection / (counts.union + protocol.added)
    return protocol.empty_iou if counts.no_target and counts.says_nothing else 0.0


def measure(
    counts: Mapping[str, Counts], protocol: Protocol = PROTOCOLS["original"], only: Collection[str] | None = None
) -> Measures:
    """Figures of all expressions in `counts`, or of those in `only`.

    Integers are summed exactly and the mean of IoUs is the correctly rounded one (`math.fsum`), so the result does not
    depend on the order of the expressions.
    """
    chosen = list(counts.values()) if only is None else [counts[e] for e in only]
    table = np.array([c[:4] for c in chosen], dtype=np.int64).reshape(-1, 4)
    intersection, union, _, _ = table.T
    targeted = np.array([not c.no_target for c in chosen], bool)
    said = np.array([c.says_nothing for c in chosen], bool)
    ious = [iou(c, protocol) for c in chosen]
    # a correct no-target is worth 1 in gIoU under every protocol
    generalised = [1.0 if c.no_target and c.says_nothing else v for c, v in zip(chosen, ious, strict=True)]
    overall = _ratio(int(intersection.sum()), int(union.sum()))
    among = np.full(len(chosen), True) if protocol.prec_of_all else targeted
    hits: dict[str, float | None] = {}
    for tenths in PRECISION_TENTHS:
        if protocol.strict:
            reached = np.array(ious, np.float64) > float(np.float32(tenths / 10))
        else:  # in whole numbers: no expression falls off the edge by rounding
            reached = (10 * intersection >= tenths * union) & (union > 0)
        hits[f"0.{tenths}"] = _ratio(int(reached[among].sum()), int(among.sum()))
    return Measures(
        expressions=len(chosen),
        no_target=int((~targeted).sum()),
        oIoU=overall,
        mIoU=_ratio(math.fsum(ious), len(chosen)),
        prec=hits,
        gIoU=_ratio(math.fsum(generalised), len(chosen)),
        cIoU=overall,
        n_acc=_ratio(int((~targeted & said).sum()), int((~targeted).sum())),
        t_acc=_ratio(int((targeted & ~said).sum()), int(targeted.sum())),
    )


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
