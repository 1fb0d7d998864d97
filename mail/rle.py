"""Binary masks as COCO compressed run lengths, the only form in which masks are stored or compared.

An RLE here is pycocotools' dictionary `{"size": [height, width], "counts": bytes}`. Run lengths go down the columns
(Fortran order), and `counts` is COCO's ASCII compression of them (cocoapi, `rleToString`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

RLE = dict[str, Any]


def encode(mask: np.ndarray) -> RLE:
    """RLE of a boolean mask (H, W)."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_part(part: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> RLE:
    """RLE in an image of `size` (H, W) of a boolean mask (h, w) whose first pixel lies at `corner` (row, column).

    The same bytes as of the whole image, for the price of the part.
    """
    (top, left), (height, width) = corner, size
    ringed = np.zeros((part.shape[0] + 2, part.shape[1]), bool)
    ringed[1:-1] = part
    rows, columns = np.divmod(np.flatnonzero(ringed[1:] != ringed[:-1]), part.shape[1])
    borders = np.sort((left + columns) * height + top + rows)
    if part.shape[0] == height:  # a run that ends with its column goes on if one begins with the next
        values, times = np.unique(borders, return_counts=True)
        borders = values[times == 1]
    borders = borders[: np.searchsorted(borders, height * width)]  # none begins after the last pixel
    counts = np.diff(np.concatenate([[0], borders, [height * width]]))
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def encode_many(masks: np.ndarray) -> list[RLE]:
    """RLEs of boolean masks (K, H, W)."""
    if len(masks) == 0:
        return []
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


def decode(rle: RLE) -> np.ndarray:
    """Boolean mask (H, W) of an RLE."""
    return coco_mask.decode(rle).astype(bool)


def decode_many(rles: Sequence[RLE], size: tuple[int, int]) -> np.ndarray:
    """uint8 masks (K, H, W), values 0 and 1; `size` gives (H, W) when there is no RLE at all."""
    if not rles:
        return np.zeros((0, *size), dtype=np.uint8)
    return coco_mask.decode(list(rles)).transpose(2, 0, 1)


def run_lengths(counts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """What the `counts` of many masks say: all run lengths, one mask after another, int64 (R,); of each how many (n,).

    The strings have to be whole (`mail.data.segmentation` tells of others' whether they are), but may be empty.
    """
    codes = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)  # character of each run
    if not len(last):
        return last, np.zeros(len(counts), np.int64)
    digits = np.diff(last, prepend=-1)
    first = last - digits + 1
    runs = np.add.reduceat((codes & 31) << (5 * (np.arange(len(codes)) - np.repeat(first, digits))), first)
    runs -= (codes[last] & 16) << (5 * digits - 4)
    found = np.diff(np.searchsorted(last, np.cumsum([len(c) for c in counts])), prepend=0)
    # From the fourth on, a run is written as its difference to the run two before: 1, 3, 5, ... and 2, 4, 6, ... of a
    # mask are two sums. Of all masks at once where each begins at an even place.
    mask = np.repeat(np.arange(len(counts)), found)
    even = found + found % 2
    begin = (np.cumsum(even) - even)[mask]
    place = begin + np.arange(len(runs)) - (np.cumsum(found) - found)[mask]
    sums = np.zeros(2 + int(even.sum()), np.int64)
    sums[2 + place] = np.where(place == begin, 0, runs)
    for chain in (sums[0::2], sums[1::2]):
        np.cumsum(chain, out=chain)
    return np.where(place == begin, runs, sums[2 + place] - sums[begin + place % 2]), found


def empty(height: int, width: int) -> RLE:
    """The RLE of a mask without a single pixel."""
    return encode(np.zeros((height, width), dtype=bool))


def to_json(rle: RLE) -> dict[str, Any]:
    """The same ready for JSON: `{"size": [height, width], "counts": text}`."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def union(rles: Sequence[RLE], size: tuple[int, int]) -> RLE:
    """Union of masks of the same size; the empty mask of `size` (H, W) for none."""
    return coco_mask.merge(list(rles), intersect=False) if rles else empty(*size)


def area(rle: RLE) -> int:
    """Number of pixels."""
    return int(coco_mask.area(rle))


def areas(rles: Sequence[RLE]) -> list[int]:
    """Number of pixels of each mask (pycocotools' own `area` of a list fails from 256 masks on, with numpy 2)."""
    return [area(rle) for rle in rles]


def bbox(rle: RLE) -> list[float]:
    """[x, y, width, height] in pixels; zeros for an empty mask."""
    return [float(v) for v in coco_mask.toBbox(rle)]


def inside_matrix(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """Share of every mask of `b` that lies inside every mask of `a`: float64 (len(a), len(b)); of an empty mask 0."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    # what COCO calls a crowd: divided by the area of the other mask alone
    return np.nan_to_num(np.asarray(coco_mask.iou(list(b), list(a), [1] * len(a))).T)


def iou_matrix(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """IoU of every mask of `a` with every mask of `b`: float64 (len(a), len(b)); two empty masks count 0."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    return np.asarray(coco_mask.iou(list(a), list(b), [0] * len(b)))
