"""How good proposals are: against annotated instances of held-out images, and against the referents of a data store."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mail import rle
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.store import DataStore
from mail.proposals import Proposals

IMAGES_AT_ONCE = 256
RECALL_AT = (1, 2, 5, 10, 20, 50, 100)


def best_ious(targets: Sequence[rle.RLE], proposals: Proposals) -> np.ndarray:
    """float64 (T,): for every target the IoU of the proposal that fits it best, whatever its class; 0 for none."""
    if len(proposals) == 0 or not targets:
        return np.zeros(len(targets))
    return rle.iou_matrix(targets, proposals.rles).max(axis=1)


def recall(ious: np.ndarray) -> dict[str, float | None]:
    """Shares of targets with a proposal of IoU >= .5 and >= .75, and the mean IoU of the best proposal.

    They are None where there is no target: nothing is measured then.
    """
    if len(ious) == 0:
        return dict.fromkeys(("recall_50", "recall_75", "mean_best_iou"))
    return {
        "recall_50": float((ious >= 0.5).mean()),
        "recall_75": float((ious >= 0.75).mean()),
        "mean_best_iou": float(ious.mean()),
    }


def instance_recall(pairs: Iterable[tuple[Sequence[rle.RLE], Proposals]]) -> dict[str, float | None]:
    """Class-agnostic recall of annotated instances: per image its instances' masks and its proposals.

    Returns:
        As `recall`; `recall_50@K` and `recall_75@K` for the K best proposals of each image alone, for every K of
        `RECALL_AT` that some image has; `instances`, `images`, `proposals_per_image`.
    """
    best: list[np.ndarray] = []  # per image (T, K): the best IoU of a target among the first 1 .. K proposals
    found: list[int] = []
    for targets, proposals in pairs:
        found.append(len(proposals))
        overlap = rle.iou_matrix(targets, proposals.rles)
        best.append(np.maximum.accumulate(overlap, axis=1) if len(proposals) else np.zeros((len(targets), 1)))
    every = np.concatenate([b[:, -1] for b in best]) if best else np.zeros(0)
    at: dict[str, float | None] = {}
    for count in RECALL_AT:
        if count <= max(found, default=0):
            numbers = recall(np.concatenate([b[:, min(count, b.shape[1]) - 1] for b in best]))
            at |= {f"{name}@{count}": numbers[name] for name in ("recall_50", "recall_75")}
    mean = float(np.mean(found)) if found else 0.0
    return {**recall(every), **at, "instances": len(every), "images": len(found), "proposals_per_image": mean}


def proposal_quality(store: DataStore, masks: MaskSnapshot, splits: Sequence[str] | None = None) -> dict[str, Any]:
    """How far a network could get with these masks: per expression, the IoU of the best proposal with its target.

    Args:
        splits: whose expressions count, all splits of the store for None. Expressions without a target do not count.

    Returns:
        `proposal_recall_50`, `proposal_recall_75`, `oracle_mIoU` (fractions of expressions), `proposals_per_image`,
        `expressions`, `images`, `images_without_row`, and the first three again per split under `splits`.
    """
    table = store.expressions(splits, ["image_id", "split", "target", "no_target"]).sort_by("image_id")
    grouped = table["image_id"].value_counts()  # in the order of the rows
    ids, starts = grouped.field("values").to_pylist(), np.append(0, np.cumsum(grouped.field("counts").to_numpy()))
    ious: dict[str, list[float]] = {}
    counted: list[int] = []
    missing = 0
    for at in range(0, len(ids), IMAGES_AT_ONCE):
        some = ids[at : at + IMAGES_AT_ONCE]
        found = masks.proposals(some)
        expressions = table.slice(starts[at], starts[at + len(some)] - starts[at]).to_pylist()
        for image_id, own in groupby(expressions, key=lambda row: row["image_id"]):
            rows = [r for r in own if not r["no_target"]]
            proposals = found.get(image_id)
            missing += proposals is None
            counted.append(0 if proposals is None else len(proposals))
            fit = best_ious([r["target"] for r in rows], proposals or Proposals((0, 0)))
            for row, iou in zip(rows, fit, strict=True):
                ious.setdefault(row["split"], []).append(float(iou))
    every = np.array([v for values in ious.values() for v in values])
    return {
        **_named(every),
        "proposals_per_image": float(np.mean(counted)) if counted else 0.0,
        "expressions": len(every),
        "images": len(ids),
        "images_without_row": missing,
        "splits": {s: {**_named(np.array(v)), "expressions": len(v)} for s, v in sorted(ious.items())},
    }


def _named(ious: np.ndarray) -> dict[str, float | None]:
    numbers = recall(ious)
    return {
        "proposal_recall_50": numbers["recall_50"],
        "proposal_recall_75": numbers["recall_75"],
        "oracle_mIoU": numbers["mean_best_iou"],
    }
