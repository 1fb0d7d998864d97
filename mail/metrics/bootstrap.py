"""Paired bootstrap: do two models differ on the same expressions by more than chance?

Expressions are drawn with replacement, the same draw for both models, and the difference of a figure is computed for
each resample. Percentile intervals; the seed is fixed, so that a decision can be repeated.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mail.errors import UserError
from mail.metrics.accumulator import Counts
from mail.metrics.measure import iou, measure
from mail.metrics.protocols import PROTOCOLS, Protocol

_CHUNK = 256  # resamples at a time: 256 x 10,000 float64 weights are 20 MB


class Difference(NamedTuple):
    """Candidate minus baseline of one figure, with its bootstrap interval (fractions, not points).

    Attributes:
        candidate, baseline, difference: on all expressions, not resampled.
        lower, upper: bounds of the interval that holds `confidence` of the resamples.
        positive: share of the resamples in which the candidate is better.
    """

    candidate: float
    baseline: float
    difference: float
    lower: float
    upper: float
    positive: float
    confidence: float
    resamples: int
    expressions: int
    seed: int


def paired_bootstrap(
    candidate: Mapping[str, Counts],
    baseline: Mapping[str, Counts],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    protocol: Protocol = PROTOCOLS["original"],
) -> dict[str, Difference]:
    """Differences of `mIoU` and `oIoU` between two models.

    Raises:
        UserError: the two were not counted on the same expressions with the same ground truth.
    """
    if candidate.keys() != baseline.keys():
        only_a, only_b = len(candidate.keys() - baseline.keys()), len(baseline.keys() - candidate.keys())
        raise UserError(
            f"the two models were not scored on the same expressions: {only_a} only for the candidate, "
            f"{only_b} only for the baseline; evaluate both on the same split"
        )
    if not candidate:
        raise UserError("there is no expression to compare the two models on")
    ids = sorted(candidate)
    if other := [
        e for e in ids if (candidate[e].target, candidate[e].targeted) != (baseline[e].target, baseline[e].targeted)
    ]:
        raise UserError(
            f"{len(other)} expressions have another ground truth in the two results (first: {other[0]}): "
            "they come from different data stores or protocols"
        )
    # columns: IoU of a, IoU of b, intersection and union of a, of b
    columns = np.array(
        [
            (iou(a, protocol), iou(b, protocol), a.intersection, a.union, b.intersection, b.union)
            for a, b in ((candidate[e], baseline[e]) for e in ids)
        ],
        dtype=np.float64,
    )
    n = len(ids)
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, columns.shape[1]))
    weights = np.empty((_CHUNK, n))
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        draws = rng.integers(0, n, size=(rows, n), dtype=np.uint32)
        for row in range(rows):
            weights[row] = np.bincount(draws[row], minlength=n)
        sums[start : start + rows] = weights[:rows] @ columns
    mean, overall = (sums[:, 0] - sums[:, 1]) / n, _share(*sums[:, 2:4].T) - _share(*sums[:, 4:6].T)
    ours, theirs = measure(candidate, protocol), measure(baseline, protocol)
    settings = {"confidence": confidence, "resamples": resamples, "expressions": n, "seed": seed}
    return {
        "mIoU": _difference(ours.mIoU or 0.0, theirs.mIoU or 0.0, mean, settings),
        "oIoU": _difference(ours.oIoU or 0.0, theirs.oIoU or 0.0, overall, settings),
    }


def _share(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Quotients; 0 where there is not a single pixel."""
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _difference(candidate: float, baseline: float, samples: np.ndarray, settings: dict[str, Any]) -> Difference:
    tail = (1 - settings["confidence"]) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail])
    return Difference(
        candidate=candidate,
        baseline=baseline,
        difference=candidate - baseline,
        lower=float(lower),
        upper=float(upper),
        positive=float((samples > 0).mean()),
        **settings,
    )
