"""How much of every mask cell a mask covers, worked out from its run lengths: no mask is ever decoded to pixels.

The filter is the antialiased bilinear one of `torch.nn.functional.interpolate`: across a cell's row and column of
pixels a triangle, cut off and normalised at the border. Run lengths go down the columns, so that the filter along a
column is a sum over the ends of its runs: from pixel y down to the bottom, the cells of a column are covered by
`below[y]`, a run from a to b by `below[a] - below[b]`. From one cell to the next `below[y]` changes in two or three
cells only, and a column of pixels lies in two or three columns of cells: an end costs six additions or so, and what
goes on into the next column of pixels one.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mail import rle

NOTHING = 1e-9  # what is left where differences of sums should be 0


def coverage(masks: Sequence[rle.RLE], size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Coverage 0..255 of every cell: n RLEs of `size` (H, W) pixels -> uint8 (n, h, w) of `cells` (h, w).

    Raises:
        ValueError: a mask has other than H x W pixels.
    """
    (height, width), (h, w), n = size, cells, len(masks)
    if not n:
        return np.zeros((0, h, w), np.uint8)
    lengths, counts = rle.run_lengths([mask["counts"] for mask in masks])
    ends = np.cumsum(lengths)  # of all masks side by side, as one picture of n * W columns
    lasts = np.cumsum(counts) - 1
    if not np.array_equal(ends[lasts], height * width * np.arange(1, n + 1)):
        raise ValueError(f"a mask does not have {height} x {width} pixels")
    number = np.arange(len(ends)) - np.repeat(lasts + 1 - counts, counts)
    sign = np.where(number & 1, np.float32(-1), np.float32(1))  # where the 1st, 3rd, ... run ends, foreground begins
    sign[lasts] = 0
    ends, sign = ends[sign != 0], sign[sign != 0]
    column = ends // height
    mask, x = column // width, column % width
    # along a column the change from each cell to the next, which is summed up below: (edges of y, edges of x, ends)
    (first_y, changes), (first_x, shares) = _filters(size, cells)
    y = ends - column * height
    corner = (first_y[y] * n + mask) * w + first_x[x]
    steps = np.arange(len(changes))[:, None] * (n * w) + np.arange(len(shares))
    what = changes.take(y, 1)[:, None] * (shares.take(x, 1) * sign)
    found = np.zeros((h, n, w), np.float32)
    np.add.at(found.reshape(-1), (steps[:, :, None] + corner).reshape(-1), what.reshape(-1))

    inside = np.bincount(column, sign, n * width).reshape(n, width)
    through = np.cumsum(inside, 1) - inside  # 1 where a run goes on from the column before
    where = np.arange(len(shares))[:, None, None] + (np.arange(n)[:, None] * w + first_x)
    np.add.at(found[0].reshape(-1), where.reshape(-1), (shares[:, None] * through.astype(np.float32)).reshape(-1))
    found[0] += 0.5  # rounded, once the rest is cut off
    for row in range(1, h):
        found[row] += found[row - 1]
    return found.transpose(1, 0, 2).astype(np.uint8)


@lru_cache(64)
def _filters(
    size: tuple[int, int], cells: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The bands of y's changes, and of x's shares of 255."""
    below = np.cumsum(_triangles(size[0], cells[0])[::-1], 0)[::-1]  # (H, h)
    return _band(np.diff(below, axis=1, prepend=0)), _band(255 * _triangles(size[1], cells[1]))


def _triangles(pixels: int, cells: int) -> np.ndarray:
    """(pixels, cells) share of each pixel in each cell."""
    scale = pixels / cells
    distance = np.arange(pixels)[:, None] + 0.5 - scale * (np.arange(cells) + 0.5)
    shares = np.maximum(1 - np.abs(distance) / max(scale, 1.0), 0)
    return shares / shares.sum(0)


def _band(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is not 0 in rows of (pixels, cells): the first cell (pixels,), and the values from there on (b, pixels)."""
    there = np.abs(filters) > NOTHING
    cells = filters.shape[1]
    first = there.argmax(1)
    longest = int((cells - there[:, ::-1].argmax(1) - first).max())
    first = np.minimum(first, cells - longest)
    values = np.take_along_axis(filters, first[:, None] + np.arange(longest), 1)
    return first, np.ascontiguousarray(values.T, np.float32)
