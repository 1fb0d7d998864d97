"""Slices: the same figures for parts of a split, to see where a model is weak.

| slice | values | from |
|---|---|---|
| `category` | the store's category names | `category` |
| `words` | `1-2`, `3-5`, `6-10`, `11+` | number of words of the expression |
| `target size` | `small` < 32x32 <= `medium` < 96x96 <= `large`, `none` | the target's pixels, COCO's area classes |
| `same category` | `0`, `1`, `2`, `3+` | **other referents** of its category in the image, over all splits |
| `kind of words` | `place`, `attribute`, `both`, `neither` | the word lists below |
| `targets` | `none`, `1`, `2`, `3+` | number of annotations; left out where every expression has one |

The store knows the instances that somebody referred to, not all that are in the picture; so `same category` is a lower
bound of the distractors.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pyarrow as pa

from mail import rle


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# without "in" and "on": "man in red", "dog on sofa" do not say where in the picture the referent is
PLACE_WORDS = _words(
    """left right top bottom middle center centre front back behind above below under underneath over beside between
    near nearest next closest far farthest furthest close corner edge side upper lower leftmost rightmost topmost
    bottommost first second third fourth fifth last end inside outside foreground background facing towards away
    up down row beneath opposite against"""
)

ATTRIBUTE_WORDS = _words(
    """red blue green yellow orange purple pink brown black white grey gray gold golden silver tan beige teal cyan
    magenta maroon dark light bright striped stripes plaid spotted dotted checkered colored big bigger biggest small
    smaller smallest large larger largest little tiny huge tall taller tallest short shorter shortest long longer
    longest thin fat thick wide round square old older young younger bald blond blonde wooden metal plastic shiny
    empty full open closed whole half sliced wearing shirt jacket hat cap dress glasses"""
)

DIMENSIONS = ("category", "words", "target size", "same category", "kind of words", "targets")


def slice_expressions(expressions: pa.Table, store_expressions: pa.Table | None = None) -> dict[str, dict[str, str]]:
    """Slice -> `expr_id` -> value, for the expressions of a split.

    Args:
        expressions: rows with `expr_id`, `image_id`, `text`, `target`, `ann_ids`, `category`.
        store_expressions: `image_id`, `ann_ids`, `category` of all splits, for `same category`; default: this split's.
    """
    context = expressions if store_expressions is None else store_expressions
    referents = _referents(context)
    slices: dict[str, dict[str, str]] = {name: {} for name in DIMENSIONS}
    areas = rle.areas(expressions["target"].to_pylist())
    columns = (expressions[c].to_pylist() for c in ("expr_id", "image_id", "text", "ann_ids", "category"))
    for expr_id, image_id, text, ann_ids, category, area in zip(*columns, areas, strict=True):
        words = tokenize(text)
        others = referents.get((image_id, category), set()) - set(ann_ids or ())
        slices["category"][expr_id] = category or "(none)"
        slices["words"][expr_id] = length_class(len(words))
        slices["target size"][expr_id] = size_class(int(area))
        slices["same category"][expr_id] = str(len(others)) if len(others) < 3 else "3+"
        slices["kind of words"][expr_id] = kind_of_words(words)
        slices["targets"][expr_id] = number_of_targets(len(ann_ids or ()), int(area))
    if set(slices["targets"].values()) <= {"1"}:
        del slices["targets"]
    return slices


def members(slices: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, list[str]]]:
    """Slice -> value -> its expressions; values sorted by how many they have, then by name."""
    result: dict[str, dict[str, list[str]]] = {}
    for name, values in slices.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for expr_id, value in values.items():
            groups[value].append(expr_id)
        result[name] = dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))
    return result


def tokenize(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def length_class(words: int) -> str:
    for limit, name in ((2, "1-2"), (5, "3-5"), (10, "6-10")):
        if words <= limit:
            return name
    return "11+"


def size_class(area: int) -> str:
    """COCO's classes of area, in pixels of the original image."""
    if area == 0:
        return "none"
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def number_of_targets(annotations: int, area: int) -> str:
    """How many annotations are meant; a target without any, of a data set that does not number them, counts as one."""
    if area == 0:
        return "none"
    return "3+" if annotations > 2 else str(max(1, annotations))


def kind_of_words(words: Iterable[str]) -> str:
    words = set(words)
    place, attribute = bool(words & PLACE_WORDS), bool(words & ATTRIBUTE_WORDS)
    if place and attribute:
        return "both"
    return "place" if place else "attribute" if attribute else "neither"


def _referents(expressions: pa.Table) -> dict[tuple[str, str], set[int]]:
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    columns = (expressions[c].to_pylist() for c in ("image_id", "category", "ann_ids"))
    for image_id, category, ann_ids in zip(*columns, strict=True):
        found[image_id, category].update(ann_ids or ())
    return found
