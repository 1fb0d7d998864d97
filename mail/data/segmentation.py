"""Checks the masks that somebody else wrote (polygons, run lengths) before any C code reads them.

pycocotools trusts its input: run lengths that do not add up to the image are silently counted with the wrong area.
Ten thousand masks are checked in some hundredths of a second, since all strings are decoded as one array.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.typed import number, whole_number

_CHUNK = 2**17  # characters


def checked_mask(segmentation: Any, height: int, width: int) -> rle.RLE:
    """Run lengths of a COCO `segmentation` from an untrusted file, for an image of `height` x `width`.

    Polygons of one annotation are united, so that parts which overlap stay filled; see `polygons_of`.

    Raises:
        ValueError: no segmentation, no polygon of 3 points or more, coordinates that are no numbers or lie far outside
            the image (rasterising them would take memory without bound), or run lengths that do not fill the image
            exactly.
    """
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
        for reason in find_invalid([text], [height * width]).values():
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


def find_invalid(counts: Sequence[bytes], pixels: Sequence[int]) -> dict[int, str]:
    """Index -> reason of each COCO-compressed string that is not a mask of so many pixels.

    Args:
        counts: compressed run lengths (cocoapi `rleToString`: base 32, sign and continuation bits, differences to the
            run two before).
        pixels: height x width of each mask.
    """
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
    problems: dict[int, str] = {}
    lengths = np.array([len(c) for c in counts], dtype=np.int64)
    for i in np.flatnonzero(lengths == 0):
        problems[int(i)] = "its counts are empty"
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return problems
    mask_of_code = np.repeat(np.arange(len(counts)), lengths)
    for i in np.unique(mask_of_code[(codes < 0) | (codes > 63)]):
        problems[int(i)] = "its counts hold characters that do not belong there"
    ends = np.flatnonzero((codes & 32) == 0)  # last character of each run
    last = np.cumsum(lengths)[lengths > 0] - 1
    for i in np.flatnonzero(lengths > 0)[(codes[last] & 32) != 0]:
        problems.setdefault(int(i), "its counts are cut off")
    if len(ends) == 0:
        return problems
    codes, mask_of_code = codes[: ends[-1] + 1], mask_of_code[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    mask_of_run = mask_of_code[ends]
    for i in np.unique(mask_of_run[digits > 7]):
        problems.setdefault(int(i), "it has a run of more pixels than an image can have")
    place = np.minimum(np.arange(len(codes)) - np.repeat(starts, digits), 7)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * np.minimum(digits, 8)), 0)
    # undo the differences: runs 1, 3, 5, ... and 2, 4, 6, ... are two cumulative sums, run 0 stands alone
    first_of_mask = np.concatenate([[True], mask_of_run[1:] != mask_of_run[:-1]])
    position = np.arange(len(runs)) - np.maximum.accumulate(np.where(first_of_mask, np.arange(len(runs)), 0))
    chain = mask_of_run * 3 + np.where(position == 0, 0, 2 - position % 2)
    order = np.argsort(chain, kind="stable")
    summed = np.cumsum(runs[order])
    head = np.concatenate([[True], chain[order][1:] != chain[order][:-1]])
    before = np.concatenate([[0], summed[:-1]])
    lengths_of_runs = np.empty_like(runs)
    lengths_of_runs[order] = summed - np.repeat(before[head], np.diff(np.append(np.flatnonzero(head), len(runs))))
    for i in np.unique(mask_of_run[lengths_of_runs < 0]):
        problems.setdefault(int(i), "it has a run of negative length")
    totals = np.zeros(len(counts), dtype=np.int64)
    np.add.at(totals, mask_of_run, lengths_of_runs)
    for wrong in np.flatnonzero(totals != np.asarray(pixels, dtype=np.int64)).tolist():
        problems.setdefault(
            wrong, f"its runs add up to {totals[wrong]} pixels: they do not cover height x width = {pixels[wrong]}"
        )
    return problems
