"""The leak firewall: no evaluation image may have been seen by the proposer or in training.

RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO take their val and test images from COCO train2014, so that most published
Mask R-CNN weights saw them. Images are compared by id; what was trained on images that nobody listed counts as leaky.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError


def overlaps(seen: Iterable[str], store: DataStore, splits: Sequence[str] | None = None) -> dict[str, int]:
    """Per evaluation split of the store (or of those named) how many of its images are among `seen`; only those > 0."""
    evaluated = [s for s in (splits or store.splits) if is_evaluation_split(s)]
    if not evaluated:
        return {}
    table = store.expressions(evaluated, ["image_id", "split"])
    found = table.filter(pc.is_in(table["image_id"], pa.array(seen, pa.string())))
    counts = found.group_by("split").aggregate([("image_id", "count_distinct")]).to_pydict()
    by_split = dict(zip(counts["split"], counts["image_id_count_distinct"], strict=True))
    return {split: by_split[split] for split in evaluated if split in by_split}


def check_leakage(
    seen: Iterable[str] | None,
    store: DataStore,
    splits: Sequence[str] | None = None,
    allow_leaky: bool = False,
    what: str = "the proposer",
) -> bool:
    """Whether what was seen in training overlaps with the evaluation splits of a store.

    Args:
        seen: ids of the images seen (a mask table's label is about the store it was made for, which may be another);
            None is of unknown origin and counts as leaky.
        splits: the splits in play, all of the store for None; training splits never matter.
        what: how messages call it.

    Returns:
        True if it is leaky and that is allowed.

    Raises:
        UserError: it is leaky and not allowed; names the splits and counts.
    """
    if not [s for s in (splits or store.splits) if is_evaluation_split(s)]:
        return False
    if seen is None:
        reason = f"nobody knows which images {what} was trained on"
    elif found := overlaps(seen, store, splits):
        listed = ", ".join(f"{count} of {store.splits[s]['images']} of {s}" for s, count in found.items())
        reason = f"{what} was trained on images of the evaluation splits of {store.name}: {listed}"
    else:
        return False
    if not allow_leaky:
        raise UserError(f"{reason}. Use one that did not see them, or --allow-leaky to label all results as leaky")
    return True


def check_model(
    lineage: Mapping[str, Any] | None, store: DataStore, split: str, allow_leaky: bool = False
) -> tuple[bool, str | None]:
    """Whether a model is leaky on a split: it was trained on its images, is labelled so, or nobody can tell.

    Args:
        lineage: the model's (`mail.lineage`), None if it has none.

    Returns:
        The label, and why nobody can tell, where that is the reason (to follow the model's name).

    Raises:
        UserError: it was trained on images of the split and that is not allowed.
    """
    if not is_evaluation_split(split):
        return False, None
    if lineage is None:
        return True, "has no lineage.json: nobody knows what it was trained on"
    leaky, source = bool(lineage.get("leaky")), lineage.get("data_store") or {}
    if source.get("digest") == store.digest:
        return leaky, None
    images = _training_images(source)
    if images is None:
        name, where = source.get("name") or "a data store", source.get("uri") or "a place that was not recorded"
        return True, (
            f"was trained on {name} {str(source.get('digest'))[:12]}, which is not at {where} now: nobody can tell "
            "which images that were"
        )
    return check_leakage(images, store, [split], allow_leaky, "the model") or leaky, None


def _training_images(source: Mapping[str, Any]) -> set[str] | None:
    """Ids of the images of the data store that a lineage names; None if it is gone or another one by now."""
    if not source.get("uri"):
        return None
    try:
        store = DataStore(source["uri"])
    except UserError:
        return None
    if store.digest != source.get("digest"):
        return None
    return set(store.expressions(["train"], ["image_id"])["image_id"].to_pylist())
