"""Masks as polygons and PNG: read back by pycocotools and Pillow they are the mask."""

import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mail import rle
from mail.mask_formats import png, polygons


def two_parts() -> np.ndarray:
    rows, columns = np.mgrid[:60, :80]
    mask = (rows - 30) ** 2 + (columns - 30) ** 2 < 20**2
    mask[5:15, 60:79] = True
    return mask


def test_polygons_drawn_by_pycocotools_are_the_mask_largest_part_first() -> None:
    mask = two_parts()
    found = polygons(rle.encode(mask))
    assert len(found) == 2
    assert max(found[0][::2]) < 52
    drawn = rle.union(coco_mask.frPyObjects(found, 60, 80), (60, 80))
    assert rle.iou_matrix([drawn], [rle.encode(mask)])[0, 0] > 0.99
    assert [min(found[1][::2]), max(found[1][::2]), min(found[1][1::2]), max(found[1][1::2])] == [60, 79, 5, 15]


def test_a_mask_that_fills_the_picture_stays_inside_it_and_an_empty_one_has_no_polygon() -> None:
    (whole,) = polygons(rle.encode(np.ones((6, 9), bool)))
    assert (min(whole[::2]), max(whole[::2]), min(whole[1::2]), max(whole[1::2])) == (0, 9, 0, 6)
    assert polygons(rle.empty(6, 9)) == []


def test_a_hole_is_filled() -> None:
    mask = np.ones((20, 20), bool)
    mask[8:12, 8:12] = False
    assert len(polygons(rle.encode(mask))) == 1


def test_the_png_holds_the_same_pixels() -> None:
    mask = two_parts()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(rle.encode(mask))))), mask)
