"""From a detector's small masks in boxes to run lengths in the image's own resolution, without torch.

This is work for CPU cores. Beside a GPU it is done in tasks of its own, so that the next images never wait for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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

    def to_row(self) -> dict[str, Any]:
        """For the way from the process that has the GPU to those that paste (`mail.proposers.rows.DETECTED`)."""
        return {
            "boxes": self.boxes.ravel(),
            "scores": self.scores,
            "labels": self.labels,
            "sizes": np.array([m.shape for m in self.masks], np.int32).ravel(),
            "masks": b"".join(m.tobytes() for m in self.masks),
            "dtype": self.masks[0].dtype.str if len(self.masks) else "<f4",
            "edge": self.edge,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Detections":
        sizes = np.array(row["sizes"], np.int64).reshape(-1, 2)
        flat = np.frombuffer(row["masks"], row["dtype"])
        pieces = np.split(flat, np.cumsum(sizes.prod(axis=1))[:-1])
        return cls(
            boxes=np.array(row["boxes"], np.float32).reshape(-1, 4),
            scores=np.array(row["scores"], np.float32),
            labels=np.array(row["labels"], np.int32),
            masks=[piece.reshape(size) for piece, size in zip(pieces, sizes, strict=False)],
            edge=row["edge"],
        )


def detect_where_seen(
    network: Network, detect: Callable[[list[np.ndarray]], list[Detections]], images: list[np.ndarray]
) -> list[Detections]:
    """What `detect` finds; nothing in a strip that is too thin for the network (`sees`), which is not shown to it."""
    seen = [network.sees(image.shape[0], image.shape[1]) for image in images]
    visible = [image for image, shown in zip(images, seen, strict=True) if shown]
    found = iter(detect(visible) if visible else [])
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), [])
    return [next(found) if shown else nothing for shown in seen]


@dataclass(slots=True)
class Part:
    """The part of an image that a mask over a box covers.

    Attributes:
        inside: bool (h, w), where the mask is; (0, w) or (h, 0) if the box lies outside the image.
        top, left: the image's pixel that is the part's first one.
        area: pixels of the mask.
    """

    inside: np.ndarray
    top: int
    left: int
    area: int

    def encode(self, size: tuple[int, int]) -> rle.RLE:
        """RLE in the image, which has `size` (H, W)."""
        return rle.encode_part(self.inside, (self.top, self.left), size)

    def iou(self, other: "Part", more_than: float) -> float:
        """To the last bit what pycocotools gives for the run lengths; or 0, where it is certainly not `more_than`."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.inside.shape[0], other.top + other.inside.shape[0])
        right = min(self.left + self.inside.shape[1], other.left + other.inside.shape[1])
        both = self.area + other.area
        most = min(self.area, other.area, max(0, bottom - top) * max(0, right - left))  # pixels in common
        if most / (both - most) <= more_than:
            return 0.0
        mine, theirs = (p.inside[top - p.top : bottom - p.top, left - p.left : right - p.left] for p in (self, other))
        common = int(np.count_nonzero(mine & theirs))
        return common / (both - common)


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5, edge: bool = False) -> Part:
    """Where in an image of `size` (H, W) a mask is that was given as probabilities over a box.

    Args:
        mask: (h, w); the centre of cell (i, j) lies at ((j + .5) / w, (i + .5) / h) of the box.
        box: x0, y0, x1, y1 in pixels of the image, may reach beyond it.
        threshold: a pixel belongs to the mask if the probability at its centre, bilinear, is >= this. Beyond the
            outermost cells the probability falls to zero.
        edge: between the outermost cells and the box's sides it does not fall; beyond the box there is nothing.
    """
    top, down = _interpolation(float(box[1]), float(box[3]), mask.shape[0], size[0], edge)
    left, across = _interpolation(float(box[0]), float(box[2]), mask.shape[1], size[1], edge)
    inside = down @ mask.astype(np.float32, copy=False) @ across.T >= threshold  # (h, w)
    return Part(inside, top, left, int(np.count_nonzero(inside)))


def _interpolation(low: float, high: float, cells: int, pixels: int, edge: bool) -> tuple[int, np.ndarray]:
    """The first pixel that a box side covers, and the float32 (pixels covered, cells) bilinear weights of its cells."""
    length = max(high - low, 1e-3)
    margin = 0.0 if edge else 0.5 * length / cells
    start, stop = max(0, math.floor(low - margin)), min(pixels, math.ceil(high + margin))
    centres = (np.arange(start, stop, dtype=np.float32) + 0.5 - low) / length * cells - 0.5
    if edge:
        centres = np.clip(centres, 0, cells - 1)
    weights = centres[:, None] - np.arange(cells, dtype=np.float32)
    np.subtract(1, np.abs(weights, out=weights), out=weights)  # in place: this runs hundreds of times an image
    return start, np.maximum(0, weights, out=weights)


def select(found: Detections, size: tuple[int, int], selection: SelectionConfig) -> Proposals:
    """Proposals of an image of `size` (H, W): pasted, without empty ones and class-agnostic duplicates, the best K."""
    kept: list[int] = []
    parts: list[Part] = []
    areas = np.zeros(len(found.scores))  # of the kept ones
    limit = selection.duplicate_iou
    for i in np.argsort(-found.scores, kind="stable"):
        if len(kept) == selection.max_instances:
            break
        part = paste(found.masks[i], found.boxes[i], size, selection.mask_threshold, found.edge)
        if part.area == 0:
            continue
        others = areas[: len(kept)]
        # the smaller of two masks in the larger one is the most that they can have in common
        alike = np.flatnonzero(np.minimum(others, part.area) / np.maximum(others, part.area) > limit)
        if not any(part.iou(parts[k], more_than=limit) > limit for k in alike):
            areas[len(kept)] = part.area
            kept.append(int(i))
            parts.append(part)
    rles = [part.encode(size) for part in parts]
    tight = np.array([rle.bbox(r) for r in rles], np.float32).reshape(-1, 4)
    return Proposals(size, found.scores[kept].astype(np.float32), found.labels[kept].astype(np.int32), tight, rles)
