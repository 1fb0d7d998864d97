"""The leak firewall: no evaluation image may have been seen by the proposer or in training.

RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO take their val and test images from COCO train2014, so that most published
Mask R-CNN weights saw them; and the same photo comes under several names. So images are compared by id, by the bytes of
their files and by their pixels (`mail.data.image_keys`); what was trained on images that nobody listed counts as leaky.
Images that only look alike are no leak, but are said.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mail.data.image_keys import alike, keys_of
from mail.data.schema import IDENTITIES, is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError, first_few

MOST_PAIRS = 10  # of look-alikes that a line names


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        leaky: evaluation images were seen, or nobody knows.
        remarks: a line for each thing that a person should know: why it is leaky, what looks alike, what could not be
            compared.
    """

    leaky: bool = False
    remarks: tuple[str, ...] = ()


def overlaps(seen: pa.Table | Iterable[str], store: DataStore, splits: Sequence[str] | None = None) -> dict[str, int]:
    """Per evaluation split of the store (or of those named) how many of its images are among `seen`; only those > 0.

    Args:
        seen: keys of images, or ids alone.
    """
    keys = keys_of(seen)
    return {s: len(f) for s, e in store.image_keys(_evaluated(store, splits)).items() if len(f := _same(keys, e))}


def check_leakage(
    seen: pa.Table | Iterable[str] | None,
    store: DataStore,
    splits: Sequence[str] | None = None,
    allow_leaky: bool = False,
    what: str = "the proposer",
    mend: str = "Use one that did not see them",
) -> Verdict:
    """Whether what was seen in training overlaps with the evaluation splits of a store.

    Args:
        seen: keys, or ids alone, of the images seen (a mask table's label is about the store it was made for, which may
            be another); None is of unknown origin and counts as leaky.
        splits: the splits in play, all of the store for None; training splits never matter.
        what: how messages call it. mend: what a person can do about it.

    Raises:
        UserError: it is leaky and not allowed; names the splits and counts.
    """
    evaluated = _evaluated(store, splits)
    if not evaluated:
        return Verdict()
    if seen is None:
        return _leaky(f"nobody knows which images {what} was trained on", mend, allow_leaky)
    keys, own = keys_of(seen), store.image_keys(evaluated)
    remarks = tuple(_remarks(keys, pa.concat_tables(own.values()), store, what))
    found = {split: same for split, images in own.items() if len(same := _same(keys, images))}
    if not found:
        return Verdict(False, remarks)
    listed = ", ".join(f"{len(same)} of {store.splits[s]['images']} of {s}" for s, same in found.items())
    first = next(iter(found.values()))["image_id"][0].as_py()
    reason = f"{what} was trained on images of the evaluation splits of {store.name}: {listed} (first: {first})"
    return _leaky(reason, mend, allow_leaky, remarks)


def check_split(store: DataStore, split: str, allow_leaky: bool = False) -> Verdict:
    """Whether training on a split of a store sees images of its other, evaluation splits.

    Raises:
        UserError: it does and that is not allowed.
    """
    others = [s for s in store.splits if s != split]
    if split not in store.splits or not _evaluated(store, others):
        return Verdict()
    seen, what = store.image_keys([split])[split], f"a model of the split {split}"
    return check_leakage(seen, store, others, allow_leaky, what, "Put each photo into one split")


def check_model(
    lineage: Mapping[str, Any] | None, store: DataStore, split: str, allow_leaky: bool = False, what: str = "the model"
) -> Verdict:
    """Whether a model is leaky on a split: it was trained on its images, is labelled so, or nobody can tell.

    Args:
        lineage: the model's (`mail.lineage`), None if it has none.

    Raises:
        UserError: it was trained on images of the split and that is not allowed.
    """
    if not is_evaluation_split(split):
        return Verdict()
    labelled = ", so the results are labelled leaky"
    if lineage is None:
        return Verdict(True, (f"{what} has no lineage.json: nobody knows what it was trained on{labelled}",))
    leaky, remarks = bool(lineage.get("leaky")), list[str]()
    for number, link in enumerate(generations(lineage)):
        source, who = link.get("data_store") or {}, what if number == 0 else f"{what}, by way of {link.get('address')},"
        images = _training_images(link, store)
        if images is None:
            name, where = source.get("name") or "a data store", source.get("uri") or "a place that was not recorded"
            unknown = (
                f"{who} was trained on {name} {str(source.get('digest'))[:12]}, which is not at {where} now: nobody "
                f"can tell which images that were{labelled}"
            )
            return Verdict(True, (unknown,))
        found = check_leakage(images, store, [split], allow_leaky, "the model" if number == 0 else who)
        leaky, remarks = leaky or found.leaky, remarks + list(found.remarks)
    return Verdict(leaky, tuple(remarks))


def generations(lineage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The lineage, and those of the models that it goes on from: the parent's, that one's parent's, ...

    What a model rehearsed follows it, as a lineage of its own.
    """
    link: Mapping[str, Any] | None = lineage
    while link:
        yield link
        if rehearsal := link.get("rehearsal"):
            yield rehearsal
        link = link.get("parent")


def _evaluated(store: DataStore, splits: Sequence[str] | None) -> list[str]:
    return [s for s in (store.splits if splits is None else splits) if is_evaluation_split(s)]


def _same(seen: pa.Table, images: pa.Table) -> pa.Table:
    """Those of `images` that are among `seen`, under whatever name."""
    found = pa.array([False] * len(images))
    for key in IDENTITIES:
        found = pc.or_(found, pc.is_in(images[key], seen[key].combine_chunks(), skip_nulls=True))
    return images.filter(found)


def _leaky(reason: str, mend: str, allowed: bool, remarks: tuple[str, ...] = ()) -> Verdict:
    if not allowed:
        raise UserError(f"{reason}. {mend}, or --allow-leaky to label all results as leaky")
    return Verdict(True, (reason, *remarks))


def _remarks(seen: pa.Table, images: pa.Table, store: DataStore, what: str) -> Iterator[str]:
    if pairs := sorted({f"{first} and {second}" for first, second in alike(seen, images)}):
        yield (
            f"{len(pairs)} pairs of an image that {what} was trained on and an evaluation image of {store.name} look "
            f"alike, which is no leak: {first_few(pairs, MOST_PAIRS)}"
        )
    if by_id := seen["sha256"].null_count:
        yield f"{by_id} of {len(seen)} images that {what} was trained on are known by id only: not compared by content"
    elif without := seen["pixels_sha256"].null_count + images["pixels_sha256"].null_count:
        yield (
            f"{without} of {len(seen) + len(images)} images of {what} and the evaluation splits of {store.name} were "
            "compared by id and file, not by pixels: they cannot be decoded, or an earlier version prepared them"
        )


def _training_images(lineage: Mapping[str, Any], store: DataStore) -> pa.Table | None:
    """Keys of the images that a model was trained on; None if its data store is gone or another one by now."""
    source, split = lineage.get("data_store") or {}, (lineage.get("config") or {}).get("split") or "train"
    if source.get("digest") != store.digest:
        try:
            store = DataStore(source.get("uri") or "")
        except UserError:
            return None
    if store.digest != source.get("digest"):
        return None
    return store.image_keys([split])[split]
