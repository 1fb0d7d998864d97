"""Targets as some published loaders make them: polygons summed, kept where the sum is 1: overlaps are lost."""

import pyarrow as pa
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.coco import CocoInstances
from mail.data.segmentation import checked_mask, polygons_of
from mail.errors import UserError


def summed_targets(expressions: pa.Table, instances: CocoInstances) -> dict[str, rle.RLE]:
    """The targets of a split's expressions with each annotation's polygons summed, by `expr_id`.

    Several annotations of one expression are united, and run lengths are taken as they are, as in those loaders.

    Args:
        expressions: rows with `expr_id`, `target`, `ann_ids`. instances: where the store's masks are from.

    Raises:
        UserError: an annotation is not there, or is of an image of another size.
    """
    made: dict[tuple[int, tuple[int, int]], rle.RLE] = {}
    found = {}
    for row in expressions.select(["expr_id", "target", "ann_ids"]).to_pylist():
        size = (int(row["target"]["size"][0]), int(row["target"]["size"][1]))
        own = [number for number in row["ann_ids"] or [] if number >= 0]
        for number in own:
            if (number, size) not in made:
                made[number, size] = _summed(instances, number, size)
        found[row["expr_id"]] = rle.union([made[number, size] for number in own], size)
    return found


def _summed(instances: CocoInstances, number: int, size: tuple[int, int]) -> rle.RLE:
    try:
        segmentation = instances.published(number)["segmentation"]
        if not isinstance(segmentation, list):
            return instances.mask(instances.instance(number))
        checked_mask(segmentation, *size)  # before any C code reads it
        parts = coco_mask.frPyObjects(polygons_of(segmentation)[0], *size)
        return rle.encode(rle.decode_many(parts, size).sum(0) == 1)
    except KeyError:
        raise UserError(
            f"{instances.path} has no annotation {number}: name the file that the store was made from"
        ) from None
    except ValueError as error:
        raise UserError(f"{instances.path}, annotation {number}: {error}") from None
