"""Reads COCO `instances.json` files (https://cocodataset.org/#format-data) without holding them in memory.

COCO's own train2017 file has 450 MB of JSON, which is several GB as Python objects in every process that opens it.
Here the file is scanned once, one element at a time; what stays is the list of images, the categories, and per
annotation its numbers and where its text begins. Polygons are read from the file when they are asked for.
"""

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow import fs

from mail import addresses, rle
from mail.data import files
from mail.data.json_arrays import Element, JsonArrays
from mail.data.segmentation import checked_mask
from mail.errors import UserError


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CocoInstance:
    """One entry of `annotations`; `segmentation` is as published (polygons or run lengths)."""

    id: int
    image_id: int
    category_id: int
    area: float
    is_crowd: bool
    segmentation: Any


class CocoInstances:
    """Index of one instances file, local or `s3://`. Cheap to pickle, so that loader processes can share it.

    Attributes:
        images: image id -> CocoImage, in the file's order.
        categories: category id -> name.
        annotation_ids: int64 (N,), in the file's order; the arrays below run alongside.
        image_ids, category_ids: int64 (N,).
        is_crowd: bool (N,).
        bboxes: float32 (N, 4), x, y, width, height; areas: float32 (N,).

    Raises:
        UserError: the file is missing, not JSON, cut off, or an entry lacks what COCO's format demands.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = addresses.absolute(path)
        self.images: dict[int, CocoImage] = {}
        self.categories: dict[int, str] = {}
        rows, boxes = array("q"), array("d")  # flat: 6 and 5 numbers an annotation
        seen = set()
        for key, number, value, start, length in self._scan():
            seen.add(key)
            try:
                if key == "images" and value is not None:
                    self._add_image(value)
                elif key == "categories" and value is not None:
                    self.categories[int(value["id"])] = str(value["name"])
                elif key == "annotations" and value is not None:
                    x, y, width, height = value["bbox"]
                    ids = int(value["id"]), int(value["image_id"]), int(value["category_id"])
                    box = array("d", (x, y, width, height, value.get("area", width * height)))
                    rows.extend(array("q", (*ids, bool(value.get("iscrowd", 0)), start, length)))
                    boxes.extend(box)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(f"{self.path}: entry {number} of {key!r} is not COCO's: {what}") from None
        if missing := [k for k in ("images", "annotations", "categories") if k not in seen]:
            raise UserError(f"{self.path} is not a COCO instances file: it has no {', '.join(map(repr, missing))}")
        table = np.array(rows, np.int64).reshape(-1, 6)
        self.annotation_ids, self.image_ids, self.category_ids = table[:, 0], table[:, 1], table[:, 2]
        self.is_crowd, self._starts, self._lengths = table[:, 3].astype(bool), table[:, 4], table[:, 5]
        numbers = np.array(boxes, np.float32).reshape(-1, 5)
        self.bboxes, self.areas = numbers[:, :4], numbers[:, 4]
        self._by_id = np.argsort(self.annotation_ids, kind="stable")
        self._by_image = np.argsort(self.image_ids, kind="stable")
        self._sorted_ids, self._sorted_images = self.annotation_ids[self._by_id], self.image_ids[self._by_image]
        if doubled := self._sorted_ids[1:][self._sorted_ids[1:] == self._sorted_ids[:-1]].tolist():
            raise UserError(f"{self.path}: {len(doubled)} annotation ids come more than once, first: {doubled[0]}")
        self._file: Any = None

    def __len__(self) -> int:
        return len(self.annotation_ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def instance(self, annotation_id: int) -> CocoInstance:
        """The annotation of this id, read from the file; KeyError if there is none."""
        row = self._row(annotation_id)
        if row is None:
            raise KeyError(annotation_id)
        return self._read(row)

    def image_of(self, annotation_id: int) -> int | None:
        """Id of the image that an annotation lies on; None if there is no such annotation."""
        row = self._row(annotation_id)
        return None if row is None else int(self.image_ids[row])

    def instances_of(self, image_id: int) -> list[CocoInstance]:
        """All annotations of an image, in the file's order."""
        return [self._read(row) for row in self.rows_of(image_id)]

    def rows_of(self, image_id: int) -> np.ndarray:
        """Positions of an image's annotations in the arrays (int64), in the file's order."""
        low, high = np.searchsorted(self._sorted_images, [image_id, image_id + 1])
        return self._by_image[low:high]

    def mask(self, instance: CocoInstance) -> rle.RLE:
        """Run lengths of an annotation at its image's size; ValueError says what is wrong with the segmentation."""
        image = self.images.get(instance.image_id)
        if image is None:
            raise ValueError(f"its image {instance.image_id} is not listed in {self.path}")
        return checked_mask(instance.segmentation, image.height, image.width)

    def _add_image(self, value: dict[str, Any]) -> None:
        image = CocoImage(int(value["id"]), str(value["file_name"]), int(value["height"]), int(value["width"]))
        if image.id in self.images:
            raise ValueError(f"image id {image.id} comes twice")
        if image.height < 1 or image.width < 1:
            raise ValueError(f"image {image.id} has size {image.height} x {image.width}")
        self.images[image.id] = image

    def _row(self, annotation_id: int) -> int | None:
        at = int(np.searchsorted(self._sorted_ids, annotation_id))
        return int(self._by_id[at]) if at < len(self) and self._sorted_ids[at] == annotation_id else None

    def _read(self, row: int) -> CocoInstance:
        if self._file is None:
            filesystem, path = files.resolve(self.path)
            self._file = filesystem.open_input_file(path)
        value = json.loads(self._file.read_at(int(self._lengths[row]), int(self._starts[row])))
        return CocoInstance(
            int(self.annotation_ids[row]),
            int(self.image_ids[row]),
            int(self.category_ids[row]),
            float(self.areas[row]),
            bool(self.is_crowd[row]),
            value.get("segmentation"),
        )

    def _scan(self) -> Iterator[Element]:
        filesystem, path = files.resolve(self.path)
        if filesystem.get_file_info(path).type != fs.FileType.File:
            raise UserError(f"there is no file {self.path}: it should be a COCO instances.json")
        with filesystem.open_input_stream(path) as stream:
            try:
                yield from JsonArrays(stream)
            except ValueError as error:
                raise UserError(f"{self.path} is not valid JSON, or it is cut off: {error}") from None
