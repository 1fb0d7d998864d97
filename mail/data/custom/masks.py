"""Pieces of a target that are not written as COCO writes them: PNGs, and annotations of a COCO file."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mail import rle
from mail.data.coco import CocoInstances
from mail.data.mask_png import read_mask_png
from mail.data.orientation import Size
from mail.data.photos import PhotoFolder
from mail.data.typed import number, shown

Box = tuple[float, float, float, float]
_DATA = "data:image/png;base64,"


def box_of(value: Any) -> Box:
    """A box [x, y, width, height] in pixels; ValueError if it is none."""
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"box must be [x, y, width, height], not {shown(value)}")
    x, y, width, height = (number(v, "box") for v in value)
    if width <= 0 or height <= 0:
        raise ValueError(f"box must have a width and a height, not {shown(value)}")
    return x, y, width, height


@dataclass
class PngMask:
    """A mask in a PNG, of the whole photo or of the box alone.

    Attributes:
        name: of its file, "" for one that is written in the entry itself.
        read: gives its bytes.
        box: where it lies, if it is smaller than the photo; else what counts of it.
        size: (height, width) of the photo, where the file says so.
    """

    name: str
    read: Callable[[], bytes]
    box: Box | None = None
    size: Size | None = None

    @classmethod
    def named(cls, names: Sequence[str], folder: PhotoFolder, box: Box | None) -> "PngMask":
        """One whose file lies in a folder, by the first of its names that there is; or written out after `data:`."""
        if names[-1].startswith(_DATA):
            return cls.inline(names[-1], box)
        found = next(filter(folder.has, names), None)
        if found is None:
            raise ValueError(f"there is no mask {folder.explain(names[-1])} in {folder.where}")
        return cls(found, lambda: folder.read(found), box)

    @classmethod
    def inline(cls, text: str, box: Box | None = None, size: Size | None = None) -> "PngMask":
        """One in base64, with or without the beginning of a data address."""
        try:
            data = base64.b64decode(text.removeprefix(_DATA), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("its mask is no PNG in base64") from None
        return cls("", lambda: data, box, size)

    def segmentation(self, photo_size: Callable[[], Size]) -> rle.RLE:
        try:
            mask = read_mask_png(self.read())
        except ValueError as error:
            raise ValueError(f"the PNG {self.name} {error}".replace("  ", " ")) from None
        if self.box is None:
            return rle.encode(mask)
        left, top, width, height = map(round, self.box)
        if mask.shape != (height, width):  # of the whole photo: the box says which part of it is meant
            inside = np.zeros_like(mask)
            area = (slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0)))
            inside[area] = mask[area]
            return rle.encode(inside)
        rows, columns = self.size or photo_size()
        if top < 0 or left < 0 or top + height > rows or left + width > columns:
            raise ValueError(f"its box {[left, top, width, height]} lies outside of the {rows} x {columns} pixels")
        whole = np.zeros((rows, columns), bool)
        whole[top : top + height, left : left + width] = mask
        return rle.encode(whole)


@dataclass
class ListedMask:
    """An annotation of a COCO instances file; ValueError where there is none of this id."""

    coco: CocoInstances
    ann_id: int

    def __post_init__(self) -> None:
        if self.coco.image_of(self.ann_id) not in self.coco.images:
            raise ValueError(f"{self.coco.path} has no annotation {self.ann_id} on a listed image")

    @cached_property
    def _image(self) -> Any:
        return self.coco.images[self.coco.image_of(self.ann_id) or 0]

    @property
    def size(self) -> Size:
        return self._image.height, self._image.width

    @property
    def category(self) -> str:
        return self.coco.name_of(self.coco.instance(self.ann_id).category_id)

    def check_image(self, name: str) -> None:
        """ValueError if the annotation is of another photo."""
        if PurePosixPath(self._image.file_name).name != PurePosixPath(name).name:
            raise ValueError(f"annotation {self.ann_id} is of {self._image.file_name}, not of {name}")

    def segmentation(self, photo_size: Callable[[], Size]) -> Any:
        return self.coco.instance(self.ann_id).segmentation
