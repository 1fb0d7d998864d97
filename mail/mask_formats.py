"""A mask in the forms in which others want it: polygons and PNG, beside the run lengths in which it is kept here."""

import io
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image

from mail import rle


def polygons(mask: rle.RLE) -> list[list[float]]:
    """COCO's polygons [x, y, x, y, ...] in pixels around each part of a mask, the largest first; holes are filled.

    The outline runs along the edges of pixels and cuts their corners: rasterised again, it is the mask but for single
    pixels.
    """
    left, top, width, height = (int(v) for v in rle.bbox(mask))
    inside = np.pad(rle.decode(mask)[top : top + height, left : left + width], 1).astype(np.float32)
    if not inside.any():
        return []
    found: Any = contour_generator(z=inside, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    outlines, offsets = found  # of this type a pair
    # the first ring is the outer one; the middle of pixel (0, 0) of the padded box is at (0, 0)
    corner = np.array([left - 0.5, top - 0.5])
    outer = [points[: ends[1]] + corner for points, ends in zip(outlines, offsets, strict=True)]
    outer.sort(key=lambda ring: -_area(ring))
    return [[float(v) for v in ring[:-1].ravel()] for ring in outer]


def png(mask: rle.RLE) -> bytes:
    """A PNG of one bit a pixel: white on black."""
    buffer = io.BytesIO()
    Image.fromarray(rle.decode(mask)).save(buffer, "PNG")
    return buffer.getvalue()


def _area(ring: np.ndarray) -> float:
    x, y = ring[:-1].T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
