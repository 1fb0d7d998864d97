"""Checks the masks that somebody else wrote (polygons, run lengths) before any C code reads them.

pycocotools trusts its input: run lengths that do not add up to the image are silently counted with the wrong area.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mail import rle


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
        if reason := _wrong_with(text, height * width):
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
    judged = enumerate(map(_wrong_with, counts, pixels))
    return {number: reason for number, reason in judged if reason is not None}


def _wrong_with(counts: bytes, pixels: int) -> str | None:
    if not counts:
        return "its counts are empty"
    if min(counts) < 48 or max(counts) > 111:
        return "its counts hold characters that do not belong there"
    if counts[-1] - 48 & 32:
        return "its counts are cut off"
    runs: list[int] = []
    run = shift = 0
    for code in counts:
        code -= 48
        run |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift == 35:
                return "it has a run of more pixels than an image can have"
            continue
        if code & 16:
            run -= 1 << shift
        if len(runs) > 2:
            run += runs[-2]
        if run < 0:
            return "it has a run of negative length"
        runs.append(run)
        run = shift = 0
    if sum(runs) != pixels:
        return f"its runs add up to {sum(runs)} pixels: they do not cover height x width = {pixels}"
    return None
