"""Predictions against the ground truth of a split: every expression once, nothing passed over in silence."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mail.errors import UserError, first_few
from mail.metrics.accumulator import Accumulator
from mail.metrics.predictions import Prediction, PredictionSet
from mail.metrics.protocols import PROTOCOLS, Protocol, squash


@dataclass(frozen=True)
class Coverage:
    """How a set of predictions covers a split."""

    expressions: int
    missing: list[str]
    unknown: list[str]
    doubled: list[str]
    meant: str = ""  # an expression that the first unknown one may stand for
    network_size: tuple[int, int] | None = None  # of all masks, where that is not their images'

    def to_dict(self) -> dict[str, int]:
        """Counts only, for reports."""
        return {name: len(getattr(self, name)) for name in ("missing", "unknown", "doubled")}

    def check(self, source: str, split: str, allow_missing: bool) -> None:
        """Raises UserError unless each expression has one prediction.

        `allow_missing` counts a missing one as the empty mask and leaves out what is not of this split (a file may
        hold several splits); two predictions for one expression are always refused, for nobody can say which is meant.
        """
        problems = []
        if self.missing and not allow_missing:
            missing = f"{len(self.missing)} of the {self.expressions} expressions of {split} are missing"
            problems.append(f"{missing} ({first_few(self.missing)})")
        if self.unknown and not allow_missing:
            hint = f"; did you mean {self.meant}?" if self.meant else ""
            problems.append(f"{len(self.unknown)} are not in {split} ({first_few(self.unknown)}{hint})")
        if self.doubled:
            problems.append(f"{len(self.doubled)} come more than once ({first_few(self.doubled)})")
        if not problems:
            return
        mend = "" if self.doubled else "; --allow-missing counts a missing one as the empty mask and leaves out others"
        raise UserError(f"{source}: " + "; ".join(problems) + mend)


def score_predictions(
    expressions: pa.Table,
    predictions: PredictionSet,
    *,
    split: str,
    protocol: Protocol = PROTOCOLS["original"],
    allow_missing: bool = False,
) -> tuple[Accumulator, Coverage]:
    """Counts of every expression of a split.

    Args:
        expressions: the split's rows of a data store, with at least `expr_id` and `target`.
        predictions: as read from a file or a folder.
        split: its name, for messages.

    Raises:
        UserError: predictions are missing, unknown or doubled (see `Coverage.check`), or one has another size than
            its image, unless all have one size, that of a network (`network_size`).
    """
    ids: list[str] = expressions["expr_id"].to_pylist()
    unknown = sorted(predictions.masks.keys() - set(ids))
    named = {e.rpartition("/")[2]: e for e in ids}  # without the data set's name
    size = network_size(expressions, predictions.masks)
    coverage = Coverage(
        expressions=len(ids),
        missing=[e for e in ids if e not in predictions.masks],
        unknown=unknown,
        doubled=sorted(set(predictions.doubled)),
        meant=named.get(unknown[0].rpartition("/")[2], "") if unknown else "",
        network_size=size,
    )
    coverage.check(predictions.source, split, allow_missing)
    masks = predictions.masks if size in (None, protocol.resolution) else enlarged(expressions, predictions.masks)
    return accumulate(expressions, masks, protocol), coverage


def network_size(expressions: pa.Table, masks: Mapping[str, Prediction]) -> tuple[int, int] | None:
    """The size (height, width) at which a network answered, whatever the image: all masks have it, and it is square.

    None where the masks have their images' sizes, or sizes that say nothing. Such a mask is the whole image squashed;
    of one with its margins padded nothing tells, and it has to be brought to its image's size beforehand.
    """
    rows = expressions.select(["expr_id", "target"]).to_pylist()
    pairs = [(p.rle["size"], r["target"]["size"]) for r in rows if (p := masks.get(r["expr_id"])) and p.rle]
    sizes = {tuple(own) for own, _ in pairs}
    height, width = next(iter(sizes)) if len(sizes) == 1 else (0, 1)
    return (height, width) if height == width and any(list(own) != list(size) for own, size in pairs) else None


def enlarged(expressions: pa.Table, masks: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Masks of a network's size at their images', by nearest neighbour: smoothly enlarged ones would be others."""
    sizes = {r["expr_id"]: tuple(r["target"]["size"]) for r in expressions.select(["expr_id", "target"]).to_pylist()}
    return {
        e: replace(p, rle=squash(p.rle, sizes[e])) if p.rle is not None and e in sizes else p for e, p in masks.items()
    }


def accumulate(
    expressions: pa.Table, masks: Mapping[str, Prediction], protocol: Protocol = PROTOCOLS["original"]
) -> Accumulator:
    """Counts of `expressions`; those without a mask in `masks` count as predicted empty."""
    accumulator = Accumulator(protocol)
    targets: list[dict[str, Any]] = expressions["target"].to_pylist()
    nothing = Prediction(None)
    for expr_id, target in zip(expressions["expr_id"].to_pylist(), targets, strict=True):
        prediction = masks.get(expr_id, nothing)
        accumulator.add(expr_id, prediction.rle, target, prediction.no_target)
    return accumulator
