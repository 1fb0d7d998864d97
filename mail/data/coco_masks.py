"""The masks of a COCO file's annotations, with the box and the area that are theirs.

Exporters give boxes as corners, areas of 0, or numbers of another object. So geometry is the mask's own everywhere, and
what the file declares is only compared with it, counted, and said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.coco import CocoInstance, CocoInstances
from mail.errors import first_few

# polygons run between pixels, and their published areas are not those of the pixels that they cover
_PIXELS, _SHARE = 2.0, 0.1  # of a box's side
_AREA_PIXELS, _AREA_SHARE = 12.0, 0.25


@dataclass(frozen=True, slots=True)
class MeasuredMask:
    """A mask at its image's size, its box (x, y, width, height) and its area in pixels."""

    rle: rle.RLE
    box: tuple[float, float, float, float]
    area: int


class CocoMasks:
    """Makes masks of annotations, and remembers where the file declares another geometry than theirs."""

    def __init__(self, coco: CocoInstances):
        self.coco = coco
        self.measured = 0
        self._boxes: list[int] = []
        self._corners: list[int] = []
        self._areas: list[int] = []

    def measure(self, instance: CocoInstance) -> MeasuredMask:
        """The mask of an annotation with its geometry; ValueError says what is wrong with its segmentation."""
        mask = self.coco.mask(instance)
        found = MeasuredMask(mask, tuple(coco_mask.toBbox(mask).tolist()), rle.area(mask))
        self.measured += 1
        self._compare(instance.id, found)
        return found

    def union(self, instances: Sequence[CocoInstance]) -> rle.RLE | None:
        """The union of the masks of annotations of one image; None where one of them has none that can be used."""
        try:
            masks = [self.measure(instance).rle for instance in instances]
        except ValueError:
            return None
        return rle.union(masks, tuple(masks[0]["size"])) if masks else None

    def remarks(self) -> Iterator[str]:
        """A sentence for every kind of difference."""
        of = f"of {self.measured} annotations that were looked at"
        if self._corners:
            yield (
                f"{len(self._corners)} {of} give their bbox as corners x1, y1, x2, y2 instead of x, y, width, height; "
                f"the masks' own boxes are used ({first_few(self._corners)})"
            )
        if self._boxes:
            yield (
                f"{len(self._boxes)} {of} declare another bbox than their mask has; the masks' own are used "
                f"({first_few(self._boxes)})"
            )
        if self._areas:
            yield (
                f"{len(self._areas)} {of} declare another area than their mask has; the masks' own are used "
                f"({first_few(self._areas)})"
            )

    def _compare(self, annotation_id: int, found: MeasuredMask) -> None:
        x, y, width, height, area = self.coco.declared_of(annotation_id)
        if not np.isnan(x) and not _near((x, y, x + width, y + height), found.box):
            (self._corners if _near((x, y, width, height), found.box) else self._boxes).append(annotation_id)
        differs = abs(area - found.area) > _AREA_PIXELS + _AREA_SHARE * found.area
        if differs or (area <= 0 < found.area):  # never of NaN, which stands for an area that is not given
            self._areas.append(annotation_id)


def _near(corners: tuple[float, ...], box: tuple[float, ...]) -> bool:
    """Whether corners (left, top, right, bottom) are about those of a box (x, y, width, height)."""
    x, y, width, height = box
    across, down = _PIXELS + _SHARE * width, _PIXELS + _SHARE * height
    left, top, right, bottom = corners
    return (
        abs(left - x) <= across
        and abs(right - x - width) <= across
        and abs(top - y) <= down
        and abs(bottom - y - height) <= down
    )
