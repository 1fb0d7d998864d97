"""Reads COCO `instances.json` files (https://cocodataset.org/#format-data) without holding them in memory.

All stages that meet such a file read it here, so that an id, a crowd or a category is the same thing to all of them.

COCO's own train2017 file has 450 MB of JSON, which is several GB as Python objects in every process that opens it.
Here the file is scanned once, one element at a time; what stays is the list of images, the categories, and per
annotation its numbers and where its text begins. Polygons are read from the file when they are asked for.
"""

import json
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
from pyarrow import fs

from mail import addresses, rle
from mail.data import files
from mail.data.json_arrays import Element, JsonArrays
from mail.data.segmentation import checked_mask, has_run_lengths, polygons_of
from mail.data.typed import flag, given, number, shown, text, whole_number
from mail.errors import UserError, first_few

ARRAYS = {"images": "image", "annotations": "annotation", "categories": "category"}


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class CocoInstance:
    """One entry of `annotations`; `segmentation` is as published (polygons or run lengths).

    `area` is what the file declares: the box's where it gives only that, NaN for neither. The mask's own may differ.
    """

    id: int
    image_id: int
    category_id: int
    area: float
    is_crowd: bool
    segmentation: Any


class CocoInstances:
    """Index of one instances file, local or `s3://`. Cheap to pickle, so that loader processes can share it.

    Args:
        annotation_id: the number that an annotation's `id` stands for; of a value and what errors call it.

    Attributes:
        images: image id -> CocoImage, in the file's order.
        categories: category id -> name, "" for a category without one. Names that differ only in case and outer spaces
            are one: the first spelling stands for all.
        annotation_ids: int64 (N,), in the file's order; the arrays below run alongside.
        image_ids, category_ids: int64 (N,).
        is_crowd: bool (N,).
        declared: float64 (N, 5), the box (x, y, width, height) and the area that the file gives, NaN where it gives
            none. Nothing is decided by them: an annotation's geometry is that of its mask.
        faults: int64 (N,), 0 where there is a segmentation that can be looked at, else the reason's place in `reasons`.
        stray_parts: polygon parts of fewer than three points that are left out, in all.

    Raises:
        UserError: the file is missing, not JSON, cut off, or an entry lacks what COCO's format demands, or has it as
            something else; names the entry and its id.
    """

    def __init__(self, path: str | os.PathLike, annotation_id: Callable[[Any, str], int] = whole_number):
        self.path = addresses.absolute(path)
        self._annotation_id = annotation_id
        self.images: dict[int, CocoImage] = {}
        self.categories: dict[int, str] = {}
        self.reasons: list[str] = [""]
        self.stray_parts = 0
        self._rows, self._declared = array("q"), array("d")  # flat: 7 and 5 numbers an annotation
        spellings: dict[str, str] = {}
        seen = set()
        for key, place, value, start, length in self._scan():
            seen.add(key)
            if place < 0 or key not in ARRAYS:
                continue
            try:
                if not isinstance(value, dict):
                    raise ValueError(f"it is no object but {shown(value)}")
                if key == "images":
                    self._add_image(value)
                elif key == "categories":
                    category_id, name = whole_number(given(value, "id"), "id"), value.get("name")
                    name = "" if name is None else text(name, "name").strip()
                    name = spellings.setdefault(name.casefold(), name)
                    if self.categories.setdefault(category_id, name) != name:
                        raise ValueError(f"it is {name!r} here and {self.categories[category_id]!r} before")
                else:
                    self._add_annotation(value, start, length)
            except ValueError as error:
                which = f"{ARRAYS[key]} {shown(value['id'])}: " if isinstance(value, dict) and "id" in value else ""
                raise UserError(f"{self.path}: entry {place} of {key!r} is not COCO's: {which}{error}") from None
        if missing := [k for k in ARRAYS if k not in seen]:
            raise UserError(f"{self.path} is not a COCO instances file: it has no {', '.join(map(repr, missing))}")
        table = np.array(self._rows, np.int64).reshape(-1, 7)
        self.annotation_ids, self.image_ids, self.category_ids = table[:, 0], table[:, 1], table[:, 2]
        self.is_crowd, self.faults = table[:, 3].astype(bool), table[:, 4]
        self._starts, self._lengths = table[:, 5], table[:, 6]
        self.declared = np.array(self._declared, np.float64).reshape(-1, 5)
        del self._rows, self._declared
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

    def published(self, annotation_id: int) -> dict[str, Any]:
        """All that the file says of an annotation, as it says it; KeyError if there is none of this id."""
        row = self._row(annotation_id)
        if row is None:
            raise KeyError(annotation_id)
        return self._value(row)

    def image_of(self, annotation_id: int) -> int | None:
        """Id of the image that an annotation lies on; None if there is no such annotation."""
        row = self._row(annotation_id)
        return None if row is None else int(self.image_ids[row])

    def declared_of(self, annotation_id: int) -> list[float]:
        """x, y, width, height and area that the file gives for an annotation, NaN where it gives none."""
        row = self._row(annotation_id)
        if row is None:
            raise KeyError(annotation_id)
        return self.declared[row].tolist()

    def instances_of(self, image_id: int) -> list[CocoInstance]:
        """All annotations of an image, in the file's order."""
        return [self._read(row) for row in self.rows_of(image_id)]

    def rows_of(self, image_id: int) -> np.ndarray:
        """Positions of an image's annotations in the arrays (int64), in the file's order."""
        low, high = (find(self._sorted_images, image_id) for find in (bisect_left, bisect_right))
        return self._by_image[low:high]

    def mask(self, instance: CocoInstance) -> rle.RLE:
        """Run lengths of an annotation at its image's size; ValueError says what is wrong with the segmentation."""
        image = self.images.get(instance.image_id)
        if image is None:
            raise ValueError(f"its image {instance.image_id} is not listed in {self.path}")
        return checked_mask(instance.segmentation, image.height, image.width)

    def remarks(self) -> Iterator[str]:
        """A sentence for everything odd about the whole file that stops nothing."""
        if self.stray_parts:
            yield f"{self.stray_parts} polygon parts of fewer than three points are left out"
        unlisted = self.category_ids[~np.isin(self.category_ids, list(self.categories))]
        if len(unlisted):
            ids, counts = np.unique(unlisted, return_counts=True)
            named = first_few([f"{i}: {n}" for i, n in zip(ids.tolist(), counts.tolist(), strict=True)])
            yield f"{len(unlisted)} annotations are of categories that `categories` does not list ({named})"
        if nameless := [i for i, name in self.categories.items() if not name]:
            count = int(np.isin(self.category_ids, nameless).sum())
            yield f"{count} annotations are of categories without a name ({first_few(nameless)})"
        if lost := int((~np.isin(self.image_ids, list(self.images))).sum()):
            yield f"{lost} annotations are of images that `images` does not list"

    def name_of(self, category_id: int) -> str:
        """A category's name; "" where it has none, or no list names it."""
        return self.categories.get(category_id, "")

    def _add_annotation(self, value: dict[str, Any], start: int, length: int) -> None:
        box, area, fault = value.get("bbox"), value.get("area"), 0
        if box is None:
            declared = [nan] * 4
        elif isinstance(box, list) and len(box) == 4:
            declared = [number(v, "bbox") for v in box]
        else:
            raise ValueError(f"bbox must be [x, y, width, height], not {shown(box)}")
        declared.append(nan if area is None else number(area, "area"))
        ids = [self._annotation_id(given(value, "id"), "id")]
        ids += [whole_number(given(value, key), key) for key in ("image_id", "category_id")]
        crowd, segmentation = flag(value.get("iscrowd"), "iscrowd"), value.get("segmentation")
        if not segmentation or (isinstance(segmentation, list) and not has_run_lengths(segmentation)):
            try:
                self.stray_parts += polygons_of(segmentation or [])[1]
            except ValueError as error:
                if str(error) not in self.reasons:
                    self.reasons.append(str(error))
                fault = self.reasons.index(str(error))
        self._rows.extend((*ids, crowd, fault, start, length))
        self._declared.extend(declared)

    def _add_image(self, value: dict[str, Any]) -> None:
        image_id, height, width = (whole_number(given(value, key), key) for key in ("id", "height", "width"))
        image = CocoImage(image_id, text(given(value, "file_name"), "file_name"), height, width)
        if image.id in self.images:
            raise ValueError(f"image id {image.id} comes twice")
        if image.height < 1 or image.width < 1:
            raise ValueError(f"image {image.id} has size {image.height} x {image.width}")
        self.images[image.id] = image

    def _row(self, annotation_id: int) -> int | None:
        # not NumPy's: that gives up the GIL, and threads that decode photos have it for a while then
        at = bisect_left(self._sorted_ids, annotation_id)
        return int(self._by_id[at]) if at < len(self) and self._sorted_ids[at] == annotation_id else None

    def _value(self, row: int) -> dict[str, Any]:
        if self._file is None:
            filesystem, path = files.resolve(self.path)
            self._file = filesystem.open_input_file(path)
        return json.loads(self._file.read_at(int(self._lengths[row]), int(self._starts[row])))

    def _read(self, row: int) -> CocoInstance:
        value = self._value(row)
        _, _, width, height, area = self.declared[row].tolist()
        return CocoInstance(
            int(self.annotation_ids[row]),
            int(self.image_ids[row]),
            int(self.category_ids[row]),
            width * height if isnan(area) else area,
            bool(self.is_crowd[row]),
            value.get("segmentation") or [],
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
