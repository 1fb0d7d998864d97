"""What a data store holds, in figures: counts, sentences, words, sizes, objects an image."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mail import rle
from mail.data.schema import in_order
from mail.data.store import DataStore

MOST = 12  # words, categories and sizes that are named
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def summarize(store: DataStore) -> dict[str, Any]:
    """The figures, ready for JSON; see `lines`.

    An image's objects are the things in it that sentences refer to. A word is letters and digits, whatever their case.
    """
    table = store.expressions(columns=["ref_id", "image_id", "text", "target", "no_target", "category"])
    index = store.image_index
    texts = table["text"].to_pylist()
    words = [_WORD.findall(text.casefold()) for text in texts]
    vocabulary = Counter(word for found in words for word in found)
    things: dict[str, set[str]] = {image_id: set() for image_id in index["image_id"].to_pylist()}
    shares: dict[str, float] = {}
    categories: dict[str, str] = {}
    rows = table.select(["ref_id", "image_id", "target", "no_target", "category"]).to_pylist()
    for row in rows:
        if row["no_target"]:
            continue
        things[row["image_id"]].add(row["ref_id"])
        categories[row["ref_id"]] = row["category"]
        height, width = row["target"]["size"]
        shares[row["ref_id"]] = rle.area(row["target"]) / (height * width)
    sizes = Counter(zip(index["height"].to_pylist(), index["width"].to_pylist(), strict=True))
    return {
        "name": store.name,
        "digest": store.digest,
        "images": len(index),
        "refs": sum(count["refs"] for count in store.splits.values()),
        "expressions": len(table),
        "splits": {split: store.splits[split] for split in in_order(store.splits)},
        "no_target": sum(row["no_target"] for row in rows),
        "words_an_expression": _spread([len(found) for found in words]),
        "lengths": dict(sorted(Counter(len(found) for found in words).items())),
        "vocabulary": {
            "words": len(vocabulary),
            "once": sum(n == 1 for n in vocabulary.values()),
            "most_frequent": dict(vocabulary.most_common(MOST)),
        },
        "texts_twice_in_an_image": _twice(table["image_id"].to_pylist(), words, table["ref_id"].to_pylist()),
        "categories": dict(Counter(filter(None, categories.values())).most_common()),
        "sizes": {f"{h} x {w}": n for (h, w), n in sizes.most_common()},
        "sides": _spread([side for size, n in sizes.items() for side in size * n]),
        "objects_an_image": _spread([len(found) for found in things.values()]),
        "share_of_the_image": _spread(list(shares.values())),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The figures as a person reads them."""
    yield (
        f"{found['name']}: {found['images']} images, {found['refs']} refs, {found['expressions']} expressions, "
        f"digest {found['digest'][:12]}"
    )
    for split, count in found["splits"].items():
        yield f"  {split}: {count['images']} images, {count['refs']} refs, {count['expressions']} expressions"
    if found["no_target"]:
        yield f"expressions that name nothing: {found['no_target']}"
    yield f"words an expression: {_said(found['words_an_expression'])}"
    yield from _bars(found["lengths"])
    vocabulary = found["vocabulary"]
    yield f"vocabulary: {vocabulary['words']} words, {vocabulary['once']} of them used once"
    yield f"  most frequent: {_named(vocabulary['most_frequent'])}"
    if twice := found["texts_twice_in_an_image"]:
        yield f"ambiguous: {twice} expressions say of one thing what another says of another thing in the same image"
    if found["categories"]:
        yield f"categories ({len(found['categories'])}): {_named(found['categories'])}"
    yield f"image sizes (height x width): {_named(found['sizes'])}"
    yield f"  sides in pixels: {_said(found['sides'])}"
    yield f"objects an image: {_said(found['objects_an_image'])}"
    if found["share_of_the_image"]:
        yield f"share of the image that an object takes: {_said(found['share_of_the_image'], percent=True)}"


def _twice(images: list[str], words: list[list[str]], refs: list[str]) -> int:
    """Expressions with the same words as one about another thing in their image."""
    keys = [(image, tuple(found)) for image, found in zip(images, words, strict=True)]
    about: dict[Any, set[str]] = {}
    for key, ref in zip(keys, refs, strict=True):
        about.setdefault(key, set()).add(ref)
    return sum(len(about[key]) > 1 for key in keys)


def _spread(values: list[Any]) -> dict[str, float]:
    """Least, median, mean and greatest; nothing of nothing."""
    if not values:
        return {}
    return {
        "least": min(values),
        "median": float(np.median(values)),
        "mean": float(np.mean(values)),
        "greatest": max(values),
    }


def _said(spread: dict[str, float], percent: bool = False) -> str:
    if not spread:
        return "none"
    shown = {key: f"{100 * value:.2g} %" if percent else f"{value:.4g}" for key, value in spread.items()}
    return f"{shown['least']} to {shown['greatest']}, median {shown['median']}, mean {shown['mean']}"


def _named(counts: dict[str, int]) -> str:
    some = list(counts.items())[:MOST]
    return ", ".join(f"{name} ({count})" for name, count in some) + (", ..." if len(counts) > len(some) else "")


def _bars(counts: dict[int, int], width: int = 40) -> Iterator[str]:
    """A line a length: how many expressions have it; all beyond a limit are one."""
    limit = 15
    grouped = {n: counts.get(n, 0) for n in range(min(counts, default=0), min(limit, max(counts, default=0)) + 1)}
    if beyond := sum(count for n, count in counts.items() if n > limit):
        grouped[limit + 1] = beyond
    most = max(grouped.values(), default=0)
    for n, count in grouped.items():
        name = f"{n}" if n <= limit else f">{limit}"
        yield f"  {name:>4}  {'#' * -(-width * count // most):<{width}} {count}".rstrip() if most else ""
