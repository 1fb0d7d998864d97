"""Proposals: the instance masks of one image, as a proposer found them and as the mask table stores them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mail.rle import RLE, area


@dataclass
class Proposals:
    """Instance masks of one image in its original resolution, best score first.

    Attributes:
        size: (height, width) of the image after EXIF rotation.
        scores: float32 (K,), between 0 and 1.
        labels: int32 (K,), the proposer's category ids (1 for a class-agnostic proposer).
        boxes: float32 (K, 4), x, y, width, height in pixels.
        rles: K masks of `size`.
    """

    size: tuple[int, int]
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    rles: list[RLE] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rles)

    def to_rows(self) -> list[dict[str, Any]]:
        """The mask table's `instances` of this image."""
        return [
            {
                "score": float(score),
                "label": int(label),
                "bbox": [float(v) for v in box],
                "area": float(area(rle)),
                "rle": rle["counts"],
            }
            for score, label, box, rle in zip(self.scores, self.labels, self.boxes, self.rles, strict=True)
        ]

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]] | None, size: tuple[int, int]) -> "Proposals":
        """Proposals from the mask table's `instances` (None or empty: no proposals)."""
        rows = rows or []
        if not rows:
            return cls(size)
        return cls(
            size,
            np.array([r["score"] for r in rows], np.float32),
            np.array([r["label"] for r in rows], np.int32),
            np.array([r["bbox"] for r in rows], np.float32).reshape(-1, 4),
            [{"size": list(size), "counts": r["rle"]} for r in rows],
        )
