"""From a detector's small masks in boxes to run lengths in the image's own resolution, without torch."""

import numpy as np

from mail import rle
from mail.proposals import Proposals


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> rle.RLE:
    """RLE in an image of `size` (H, W) of a mask given as probabilities (M, M) over a box.

    Args:
        mask: float32; the centre of cell (i, j) lies at ((j + .5) / M, (i + .5) / M) of the box.
        box: x0, y0, x1, y1 in pixels of the image, may reach beyond it.
        threshold: a pixel belongs to the mask if the probability at its centre, bilinear, is >= this. Beyond the
            outermost cells the probability falls to zero.
    """
    height, width = size
    rows, down = _interpolation(float(box[1]), float(box[3]), mask.shape[0], height)
    columns, across = _interpolation(float(box[0]), float(box[2]), mask.shape[1], width)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return rle.empty(height, width)
    inside = down @ mask @ across.T >= threshold  # (h, w)
    canvas = np.zeros((height, width), np.uint8, order="F")
    canvas[rows, columns] = inside
    return rle.coco_mask.encode(canvas)


def _interpolation(low: float, high: float, cells: int, pixels: int) -> tuple[slice, np.ndarray]:
    """The pixels that a box side covers, and the float32 (pixels covered, cells) bilinear weights of its cells."""
    length = max(high - low, 1e-3)
    margin = 0.5 * length / cells
    span = slice(max(0, int(np.floor(low - margin))), min(pixels, int(np.ceil(high + margin))))
    centres = (np.arange(span.start, max(span.start, span.stop), dtype=np.float32) + 0.5 - low) / length * cells - 0.5
    distance = np.abs(centres[:, None] - np.arange(cells, dtype=np.float32)[None, :])
    return span, np.maximum(0, 1 - distance)


def select(
    *,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    size: tuple[int, int],
    max_instances: int,
    duplicate_iou: float,
    mask_threshold: float,
) -> Proposals:
    """Proposals from detections: pasted, empty ones and class-agnostic duplicates removed, the best `max_instances`.

    Args:
        boxes: float32 (D, 4) x0, y0, x1, y1 in the image's pixels; scores (D,); labels (D,); masks float32 (D, M, M).
    """
    order = np.argsort(-scores, kind="stable")
    pasted = [paste(masks[i], boxes[i], size, mask_threshold) for i in order]
    if not pasted:
        return Proposals(size)
    overlap = rle.iou_matrix(pasted, pasted)
    areas = rle.areas(pasted)
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == max_instances:
            break
        if areas[i] > 0 and not any(overlap[i, k] > duplicate_iou for k in kept):
            kept.append(i)
    rles = [pasted[i] for i in kept]
    chosen = order[kept]
    tight = np.array([rle.bbox(r) for r in rles], np.float32).reshape(-1, 4)
    return Proposals(size, scores[chosen].astype(np.float32), labels[chosen].astype(np.int32), tight, rles)
