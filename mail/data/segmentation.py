"""Checks the masks that somebody else wrote (polygons, run lengths) before any C code reads them.

pycocotools trusts its input: run lengths that do not add up to the image are silently counted with the wrong area.
Ten thousand masks are checked in some hundredths of a second, since all strings are decoded as one array.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mail import rle

_CHUNK = 2**17  # characters


def checked_mask(segmentation: Any, height: int, width: int) -> rle.RLE:
    """Run lengths of a COCO `segmentation` from an untrusted file, for an image of `height` x `width`.

    Polygons of one annotation are united, so that parts which overlap stay filled.

    Raises:
        ValueError: no segmentation, a polygon of fewer than 3 points, coordinates that are no numbers or lie far
            outside the image (rasterising them would take memory without bound), or run lengths that do not fill the
            image exactly.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, height, width)
        if not segmentation:
            raise ValueError("it has no polygon")
        return rle.union(coco_mask.frPyObjects(segmentation, height, width), (height, width))
    if not isinstance(segmentation, dict):
        raise ValueError("a segmentation is neither polygons nor run lengths")
    if list(segmentation.get("size", ())) != [height, width]:
        raise ValueError(f"its run lengths are for {segmentation.get('size')}, the image has {[height, width]}")
    counts = segmentation.get("counts")
    if isinstance(counts, str | bytes):
        text = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
        for reason in find_invalid([text], [height * width]).values():
            raise ValueError(f"its run lengths are invalid: {reason}")
        return {"size": [height, width], "counts": text}
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise ValueError("its run lengths are not a list of counts")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths cover {sum(counts)} pixels of {height * width}")
    return coco_mask.frPyObjects(segmentation, height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or not all(isinstance(v, int | float) for v in polygon):
        raise ValueError("a polygon is not a flat list of x, y, x, y, ...")
    points = np.asarray(polygon, np.float64)
    if len(points) % 2 or not np.isfinite(points).all():
        raise ValueError("a polygon has an odd or infinite coordinate")
    if len(points) < 6:
        raise ValueError("a polygon has fewer than 3 points")
    if points.min() < -max(height, width) or points.max() > 2 * max(height, width):
        raise ValueError(f"a polygon lies far outside the image of {height} x {width} pixels")


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
