"""From a detector's small masks in boxes to run lengths in the image's own resolution, without torch.

This is work for CPU cores. Beside a GPU it is done in tasks of its own, so that the next images never wait for it.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mail import rle
from mail.proposals import Proposals
from mail.proposers.config import Network, SelectionConfig


@dataclass
class Detections:
    """What a network found in one image, before anything is pasted.

    Attributes:
        boxes: float32 (D, 4) x0, y0, x1, y1 in the image's pixels: what each mask is stretched over.
        scores: float32 (D,), between 0 and 1.
        labels: int32 (D,), the proposer's category ids.
        masks: D arrays of probabilities, float32 or float16, each (h, w) of its own.
        edge: a mask goes on beyond its outermost cells as they are (it is a piece of a larger map); otherwise it fades
            to zero.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[np.ndarray]
    edge: bool = False

    def to_bytes(self) -> bytes:
        """For the way from the process that has the GPU to those that paste."""
        sizes = np.array([m.shape for m in self.masks], np.int32).reshape(-1, 2)
        flat = [m.ravel() for m in self.masks]
        out = io.BytesIO()
        np.savez(
            out,
            boxes=self.boxes,
            scores=self.scores,
            labels=self.labels,
            sizes=sizes,
            masks=np.concatenate(flat) if flat else np.zeros(0, np.float32),
            edge=np.array(self.edge),
        )
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Detections":
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            sizes, flat = content["sizes"], content["masks"]
            ends = np.cumsum(sizes.prod(axis=1)) if len(sizes) else np.zeros(0, np.int64)
            pieces = np.split(flat, ends[:-1]) if len(sizes) else []
            masks = [piece.reshape(size) for piece, size in zip(pieces, sizes, strict=True)]
            return cls(content["boxes"], content["scores"], content["labels"], masks, bool(content["edge"]))


def detect_where_seen(
    network: Network, detect: Callable[[list[np.ndarray]], list[Detections]], images: list[np.ndarray]
) -> list[Detections]:
    """What `detect` finds; nothing in a strip that is too thin for the network (`sees`), which is not shown to it."""
    seen = [network.sees(image.shape[0], image.shape[1]) for image in images]
    visible = [image for image, shown in zip(images, seen, strict=True) if shown]
    found = iter(detect(visible) if visible else [])
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), [])
    return [next(found) if shown else nothing for shown in seen]


def paste(
    mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5, edge: bool = False
) -> rle.RLE:
    """RLE in an image of `size` (H, W) of a mask given as probabilities (h, w) over a box.

    Args:
        mask: the centre of cell (i, j) lies at ((j + .5) / w, (i + .5) / h) of the box.
        box: x0, y0, x1, y1 in pixels of the image, may reach beyond it.
        threshold: a pixel belongs to the mask if the probability at its centre, bilinear, is >= this. Beyond the
            outermost cells the probability falls to zero.
        edge: between the outermost cells and the box's sides it does not fall; beyond the box there is nothing.
    """
    height, width = size
    rows, down = _interpolation(float(box[1]), float(box[3]), mask.shape[0], height, edge)
    columns, across = _interpolation(float(box[0]), float(box[2]), mask.shape[1], width, edge)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return rle.empty(height, width)
    inside = down @ mask.astype(np.float32, copy=False) @ across.T >= threshold  # (h, w)
    canvas = np.zeros((height, width), np.uint8, order="F")
    canvas[rows, columns] = inside
    return rle.coco_mask.encode(canvas)


def _interpolation(low: float, high: float, cells: int, pixels: int, edge: bool) -> tuple[slice, np.ndarray]:
    """The pixels that a box side covers, and the float32 (pixels covered, cells) bilinear weights of its cells."""
    length = max(high - low, 1e-3)
    margin = 0.0 if edge else 0.5 * length / cells
    span = slice(max(0, int(np.floor(low - margin))), min(pixels, int(np.ceil(high + margin))))
    centres = (np.arange(span.start, max(span.start, span.stop), dtype=np.float32) + 0.5 - low) / length * cells - 0.5
    if edge:
        centres = np.clip(centres, 0, cells - 1)
    distance = np.abs(centres[:, None] - np.arange(cells, dtype=np.float32)[None, :])
    return span, np.maximum(0, 1 - distance)


def select(found: Detections, size: tuple[int, int], selection: SelectionConfig) -> Proposals:
    """Proposals of an image of `size` (H, W): pasted, without empty ones and class-agnostic duplicates, the best K."""
    order = np.argsort(-found.scores, kind="stable")
    pasted = [paste(found.masks[i], found.boxes[i], size, selection.mask_threshold, found.edge) for i in order]
    if not pasted:
        return Proposals(size)
    overlap = rle.iou_matrix(pasted, pasted)
    areas = rle.areas(pasted)
    kept: list[int] = []
    for i in range(len(order)):
        if len(kept) == selection.max_instances:
            break
        if areas[i] > 0 and not any(overlap[i, k] > selection.duplicate_iou for k in kept):
            kept.append(i)
    rles = [pasted[i] for i in kept]
    chosen = order[kept]
    tight = np.array([rle.bbox(r) for r in rles], np.float32).reshape(-1, 4)
    return Proposals(size, found.scores[chosen].astype(np.float32), found.labels[chosen].astype(np.int32), tight, rles)
