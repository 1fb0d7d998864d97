"""The leak firewall: no evaluation image may have been seen by the proposer or in training.

RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO take their val and test images from COCO train2014, so that most published
Mask R-CNN weights saw them; and the same photo comes under several names. So images are compared by id, by the bytes of
their files and by their pixels (`mail.data.image_keys`), and by the collections that were seen whole
(`mail.data.origins`); what was trained on images that nobody knows counts as leaky. Leaky is decided for each
evaluation split. What was seen without masks is no leak, images that only look alike are none either, but are said.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mail.data.image_keys import alike
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.origins import Origin
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError, first_few
from mail.ingredients import PROPOSER, TRAINING_DATA, Ingredient, generations, ingredients

MOST_PAIRS = 10  # of look-alikes that a line names


@dataclass(frozen=True)
class Overlap:
    """What an ingredient of a model saw of an evaluation split.

    Attributes:
        ingredient: its kind, as `mail.ingredients` calls it, and name.
        images: so many were seen for certain, or may have been, `of` so many of the split.
        unknown: it saw more, and nobody knows what.
    """

    ingredient: str
    split: str
    images: int
    of: int
    unknown: bool = False

    @property
    def leaky(self) -> bool:
        return self.images > 0 or self.unknown

    def __str__(self) -> str:
        if self.images:
            return f"{self.images} of {self.of}"
        return "unknown" if self.unknown else "clean"


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        leaky: evaluation images were seen, or nobody knows.
        remarks: a line for each thing that a person should know: why it is leaky, what looks alike, what could not be
            compared.
        overlaps: what makes it leaky, by ingredient and split.
        compared: everything that was looked at, clean or not, in order.
    """

    leaky: bool = False
    remarks: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    compared: tuple[Overlap, ...] = ()

    @classmethod
    def together(cls, verdicts: Iterable["Verdict"]) -> "Verdict":
        """What several checks found."""
        found = list(verdicts)
        remarks = dict.fromkeys(remark for verdict in found for remark in verdict.remarks)
        leaks = dict.fromkeys(overlap for verdict in found for overlap in verdict.overlaps)
        compared = tuple(overlap for verdict in found for overlap in verdict.compared)
        return cls(any(verdict.leaky for verdict in found), tuple(remarks), tuple(leaks), compared)


def seen_of(origin: Origin, store: DataStore, own: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """By split, the keys of its images that were seen, under whatever name.

    Args:
        own: keys of the images of the splits in play, of the store.
    """
    if origin.collections:  # the store may have an image of theirs, whose content is known then, and the same once more
        origin = origin.knowing(pa.concat_tables(store.image_keys(list(store.splits)).values()))
    return {split: origin.among(images) for split, images in own.items()}


def overlaps(
    seen: Origin | pa.Table | Iterable[str], store: DataStore, splits: Sequence[str] | None = None
) -> dict[str, int]:
    """Per evaluation split of the store (or of those named) how many of its images are among `seen`; only those > 0."""
    found = seen_of(Origin.of(seen), store, store.image_keys(evaluated(store, splits)))
    return {split: len(images) for split, images in found.items() if len(images)}


def check_leakage(
    seen: Origin | pa.Table | Iterable[str] | None,
    store: DataStore,
    splits: Sequence[str] | None = None,
    allow_leaky: bool = False,
    what: str = "the proposer",
    mend: str = "Use one that did not see them",
    ingredient: str = PROPOSER,
) -> Verdict:
    """Whether what was seen in training overlaps with the evaluation splits of a store.

    Args:
        seen: an origin, or keys, or ids alone, of the images seen (a mask table's label is about the store it was made
            for, which may be another); None is of unknown origin and counts as leaky.
        splits: the splits in play, all of the store for None; training splits never matter.
        what: how messages call it, `ingredient`: how records do. mend: what a person can do about it.

    Raises:
        UserError: it is leaky and not allowed; names the splits and counts.
    """
    origin, chosen = Origin.of(seen), evaluated(store, splits)
    if not chosen:
        return Verdict()
    own = store.image_keys(chosen)
    found = seen_of(origin, store, own)
    remarks = tuple(_remarks(origin, pa.concat_tables(own.values()), pa.concat_tables(found.values()), store, what))
    compared = tuple(
        Overlap(ingredient, split, len(images), store.splits[split]["images"], origin.unknown)
        for split, images in found.items()
    )
    leaks = tuple(overlap for overlap in compared if overlap.leaky)
    if not leaks:
        return Verdict(False, remarks, compared=compared)
    reasons = [f"nobody knows which images {what} was trained on"] if origin.unknown else []
    if seen_at := [overlap for overlap in leaks if overlap.images]:
        counts = ", ".join(f"{o} of {o.split}" for o in seen_at)
        first = found[seen_at[0].split]["image_id"][0].as_py()
        names = ", ".join(map(str, origin.collections))
        reasons.append(
            f"{what} was trained on images of the evaluation splits of {store.name}: {counts} (first: {first})"
            + (f"; it saw {names}" if names else "")
        )
    reason = "; ".join(reasons)
    if not allow_leaky:
        raise UserError(f"{reason}. {mend}, or --allow-leaky to label all results as leaky")
    return Verdict(True, (reason, *remarks), leaks, compared)


def check_split(store: DataStore, split: str, allow_leaky: bool = False) -> Verdict:
    """Whether training on a split of a store sees images of its other, evaluation splits.

    Raises:
        UserError: it does and that is not allowed.
    """
    others = [s for s in store.splits if s != split]
    if split not in store.splits or not evaluated(store, others):
        return Verdict()
    seen, what = store.image_keys([split])[split], f"a model of the split {split}"
    return check_leakage(
        seen, store, others, allow_leaky, what, "Put each photo into one split", f"{TRAINING_DATA} {store.name}"
    )


def check_model(
    lineage: Mapping[str, Any] | None,
    store: DataStore,
    split: str,
    allow_leaky: bool = False,
    what: str = "the model",
    folder: Path | None = None,
    besides: str | None = None,
) -> Verdict:
    """Whether a model is leaky on a split: its ingredients or its parents' saw images of it, or nobody can tell.

    Args:
        lineage: the model's (`mail.lineage`), None if it has none. folder: where it carries its proposer.
        besides: a proposer that the caller has checked.

    Raises:
        UserError: it, or a parent, was trained on images of the split and that is not allowed.
    """
    if not is_evaluation_split(split):
        return Verdict()
    if lineage is None:
        reason = f"{what} has no lineage.json: nobody knows what it was trained on, so the results are labelled leaky"
        return Verdict(True, (reason,), (Overlap("model", split, 0, store.splits[split]["images"], True),))
    parts = [p for p in ingredients(lineage, store, folder) if p.kind != PROPOSER or p.name != besides]
    found = check_ingredients(parts, store, [split], allow_leaky, what)
    return replace(found, leaky=found.leaky or _is_labelled(lineage, store))


def _is_labelled(lineage: Mapping[str, Any], store: DataStore) -> bool:
    """Whether an earlier version, which did not record what leaks, called it leaky: that was about its own store."""
    old = (each for each in generations(lineage) if each.get("leaky") and "leaks" not in each)
    return any((each.get("data_store") or {}).get("digest") in (None, store.digest) for each in old)


def check_evaluation(
    lineage: Mapping[str, Any] | None,
    store: DataStore,
    split: str,
    snapshot: MaskSnapshot | None,
    allow_leaky: bool = False,
    what: str = "the model",
    folder: Path | None = None,
) -> Verdict:
    """Whether a model leaks on a split with these masks (None: without any); arguments as of `check_model`.

    Raises:
        UserError: it, a parent or the masks' proposer was trained on images of the split, nobody knows what the
            proposer saw, and that is not allowed.
    """
    if snapshot is None:
        return check_model(lineage, store, split, allow_leaky, what, folder)
    proposer = f"{PROPOSER} {snapshot.proposer_id}"
    return Verdict.together(
        [
            check_model(lineage, store, split, allow_leaky, what, folder, besides=snapshot.proposer_id),
            check_leakage(snapshot.origin(), store, [split], allow_leaky, proposer, ingredient=proposer),
        ]
    )


def check_ingredients(
    parts: Iterable[Ingredient],
    store: DataStore,
    splits: Sequence[str] | None = None,
    allow_leaky: bool = False,
    what: str = "the model",
) -> Verdict:
    """Whether what a model is made of saw evaluation images of a store.

    Training images that are known and overlap are refused. What was allowed when the model was made (its proposer's
    masks), or what nobody can tell any more, makes a label.

    Raises:
        UserError: training images overlap, and that is not allowed.
    """
    found: list[Verdict] = []
    for part in parts:
        called = part.owner if part.generation else "the model"
        if part.kind != TRAINING_DATA:
            called = f"{called}'s {part.kind} {part.name}"
        allowed = allow_leaky or part.origin.unknown or bool(part.gone) or part.kind != TRAINING_DATA
        verdict = check_leakage(part.origin, store, splits, allowed, called, ingredient=str(part))
        if part.gone and verdict.leaky:
            whose = what if called == "the model" else called
            told = f"{whose} was trained on {part.gone}: nobody can tell which images that were"
            verdict = replace(verdict, remarks=(f"{told}, so the results are labelled leaky",))
        found.append(verdict)
    return Verdict.together(found)


def evaluated(store: DataStore, splits: Sequence[str] | None = None) -> list[str]:
    """The evaluation splits of a store, or those among some."""
    return [s for s in (store.splits if splits is None else splits) if is_evaluation_split(s)]


def _remarks(origin: Origin, images: pa.Table, found: pa.Table, store: DataStore, what: str) -> Iterator[str]:
    seen = origin.images
    if pairs := sorted({f"{first} and {second}" for first, second in alike(seen, images)}):
        yield (
            f"{len(pairs)} pairs of an image that {what} was trained on and an evaluation image of {store.name} look "
            f"alike, which is no leak: {first_few(pairs, MOST_PAIRS)}"
        )
    if by_id := seen["sha256"].null_count:
        yield f"{by_id} of {len(seen)} images that {what} was trained on are known by id only: not compared by content"
    elif len(seen) and (without := seen["pixels"].null_count + images["pixels"].null_count):
        yield (
            f"{without} of {len(seen) + len(images)} images of {what} and the evaluation splits of {store.name} were "
            "compared by id and file, not by pixels: they cannot be decoded, or an earlier version prepared them"
        )
    if origin.collections and (others := len(images) - len(found)):
        yield (
            f"{others} of {len(images)} images of the evaluation splits of {store.name} are clean by their ids; they "
            f"were not compared by content with {', '.join(map(str, origin.collections))}, which {what} saw: nobody "
            "lists here what it holds"
        )
