"""Checks the masks that somebody else wrote (polygons, run lengths) before any C code reads them.

pycocotools trusts its input: run lengths that do not add up to the image are silently counted with the wrong area.
Ten thousand masks are checked in some hundredths of a second, since all strings are decoded as one array; one alone is
read character by character, which is quicker than the dozens of array operations.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from math import isfinite
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.typed import number, whole_number

_CHUNK = 2**17  # characters
_SHORT = 2000  # characters

_ALPHABET = bytes(range(48, 112))
_ONE_RUN = re.compile(rb"[P-o]*[0-O]")  # the last character of a run lacks the continuation bit
_OVERLONG = re.compile(rb"[P-o]{7}")  # 8 characters or more: beyond 35 bits

_EMPTY = "its counts are empty"
_CHARACTERS = "its counts hold characters that do not belong there"
_CUT_OFF = "its counts are cut off"
_TOO_LONG = "it has a run of more pixels than an image can have"
_NEGATIVE = "it has a run of negative length"


def checked_mask(segmentation: Any, height: int, width: int) -> rle.RLE:
    """Run lengths of a COCO `segmentation` from an untrusted file, for an image of `height` x `width`.

    Polygons of one annotation are united, so that parts which overlap stay filled; see `polygons_of`. So are the run
    lengths of a list of them, as RefCLEF has it.

    Raises:
        ValueError: no segmentation, no polygon of 3 points or more, coordinates that are no numbers or lie far outside
            the image (rasterising them would take memory without bound), or run lengths that do not fill the image
            exactly.
    """
    if has_run_lengths(segmentation):
        return rle.union([checked_mask(part, height, width) for part in segmentation], (height, width))
    if isinstance(segmentation, list):
        polygons, _ = polygons_of(segmentation)
        far = max(height, width)
        for polygon in polygons:
            if min(polygon) < -far or max(polygon) > 2 * far:
                raise ValueError(f"a polygon lies far outside the image of {height} x {width} pixels")
        return rle.union(coco_mask.frPyObjects(polygons, height, width), (height, width))
    if not isinstance(segmentation, dict):
        raise ValueError("a segmentation is neither polygons nor run lengths")
    size = segmentation.get("size")
    sides = [whole_number(v, "a side of its run lengths") for v in size] if isinstance(size, list | tuple) else size
    if sides != [height, width]:
        raise ValueError(f"its run lengths are for {sides}, the image has {[height, width]}")
    counts = segmentation.get("counts")
    if isinstance(counts, str | bytes):
        text = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
        if reason := why_invalid(text, height * width):
            raise ValueError(f"its run lengths are invalid: {reason}")
        return {"size": [height, width], "counts": text}
    if not isinstance(counts, list):
        raise ValueError("its run lengths are not a list of counts")
    counts = [whole_number(c, "a count of its run lengths") for c in counts]
    if min(counts, default=0) < 0:
        raise ValueError("its run lengths have a negative count")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths cover {sum(counts)} pixels of {height * width}")
    return coco_mask.frPyObjects({"size": sides, "counts": counts}, height, width)


def has_run_lengths(segmentation: Any) -> bool:
    """Whether it is a list of run lengths, one for every part of an object."""
    return isinstance(segmentation, list) and bool(segmentation) and all(isinstance(p, dict) for p in segmentation)


def polygons_of(segmentation: list[Any]) -> tuple[list[list[float]], int]:
    """The polygons [x, y, x, y, ...] of a segmentation, and how many stray parts lie beside them.

    A stray part has fewer than three points: editors leave them behind, and the published readers drop them.

    Raises:
        ValueError: there is no polygon, or it is written in another way; says what to do.
    """
    if not segmentation:
        raise ValueError("its segmentation is empty, as exports of boxes alone have it")
    if not isinstance(segmentation[0], list):
        raise ValueError(
            "its polygon is one flat list [x, y, x, y, ...]: COCO has a list of polygons, put it into one more pair of "
            "brackets, [[x, y, x, y, ...]]"
        )
    if any(not isinstance(part, list) or (part and isinstance(part[0], list)) for part in segmentation):
        raise ValueError("a polygon is not a flat list of x, y, x, y, ...")
    polygons = [_numbers(part) for part in segmentation if len(part) >= 6]
    if not polygons and len(segmentation) > 2 and all(len(point) == 2 for point in segmentation):
        raise ValueError("its polygon is a list of points [[x, y], ...]: write one list a polygon, [[x, y, x, y, ...]]")
    if not polygons:
        raise ValueError("a polygon has fewer than 3 points")
    return polygons, len(segmentation) - len(polygons)


def _numbers(polygon: list[Any]) -> list[float]:
    try:
        finite = isfinite(sum(polygon))
    except (TypeError, OverflowError):  # numbers as text, or no numbers
        try:
            polygon, finite = [number(v, "") for v in polygon], True
        except ValueError:
            finite = False
    if not finite:  # without the value: a reason is counted over all the masks that have it
        raise ValueError("a polygon has a coordinate that is no finite number")
    if len(polygon) % 2:
        raise ValueError("a polygon has an odd number of coordinates")
    return polygon


def why_invalid(counts: bytes, pixels: int) -> str | None:
    """Why a COCO-compressed string is not a mask of so many pixels; None if it is one.

    Args:
        counts: compressed run lengths (cocoapi `rleToString`: base 32, sign and continuation bits, differences to the
            run two before).
        pixels: height x width of the mask.
    """
    if len(counts) > _SHORT:
        return _find_invalid([counts], [pixels]).get(0)
    if reason := _misspelt(counts):
        return reason
    steps = list(map(_difference, _ONE_RUN.findall(counts)))
    runs = [steps[0], *accumulate(steps[1::2]), *accumulate(steps[2::2])]  # from the third on to the run two before
    return _NEGATIVE if min(runs) < 0 else _covers(sum(runs), pixels)


def _misspelt(counts: bytes) -> str | None:
    if not counts:
        return _EMPTY
    if counts.translate(None, _ALPHABET):
        return _CHARACTERS
    if (counts[-1] - 48) & 32:
        return _CUT_OFF
    return _TOO_LONG if _OVERLONG.search(counts) else None


@lru_cache(4096)
def _difference(text: bytes) -> int:
    """What the characters of one run say."""
    codes = [code - 48 for code in text]
    value = sum((code & 31) << (5 * place) for place, code in enumerate(codes))
    return value - (1 << (5 * len(codes)) if codes[-1] & 16 else 0)


def _covers(total: int, pixels: int) -> str | None:
    if total == pixels:
        return None
    return f"its runs add up to {total} pixels: they do not cover height x width = {pixels}"


def find_invalid(counts: Sequence[bytes], pixels: Sequence[int]) -> dict[int, str]:
    """Index -> reason of each of many strings that `why_invalid` finds fault with."""
    problems: dict[int, str] = {}
    ends = np.cumsum([len(c) for c in counts])
    first = 0
    while first < len(counts):  # parts that stay in the processor's cache
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        part = _find_invalid(counts[first:last], pixels[first:last])
        problems.update({first + i: reason for i, reason in part.items()})
        first = last
    return problems


def _find_invalid(counts: Sequence[bytes], pixels: Sequence[int]) -> dict[int, str]:
    problems = {i: reason for i, c in enumerate(counts) if (reason := _misspelt(c))}
    kept = [b"" if i in problems else c for i, c in enumerate(counts)]  # what has no end would run into the next
    lengths_of_runs, runs = rle.run_lengths(kept)
    mask_of_run = np.repeat(np.arange(len(kept)), runs)
    for i in np.unique(mask_of_run[lengths_of_runs < 0]):
        problems.setdefault(int(i), _NEGATIVE)
    totals = np.zeros(len(counts), dtype=np.int64)
    np.add.at(totals, mask_of_run, lengths_of_runs)
    for wrong in np.flatnonzero(totals != np.asarray(pixels, dtype=np.int64)).tolist():  # among them the misspelt
        problems.setdefault(wrong, _covers(totals[wrong], pixels[wrong]) or "")
    return problems
