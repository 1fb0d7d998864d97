"""Coverage worked out from run lengths is what the filter gives on pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from mail import rle
from mail.model.coverage import coverage


def filtered(masks: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """The reference: every mask decoded in full, and resized."""
    for axis in (1, 2):
        if masks.shape[axis] == 1:  # torch 2.13 does not filter a picture of one column, nor one that becomes it
            masks = np.repeat(masks, 2, axis)
    pixels = torch.from_numpy(masks)[None].float() * 255
    return interpolate(pixels, size=cells, mode="bilinear", antialias=True)[0].round().clamp(0, 255).numpy()


def assert_same(masks: np.ndarray, cells: tuple[int, int]) -> None:
    found = coverage(rle.encode_many(masks), masks.shape[1:], cells)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - filtered(masks, cells)).max() <= 1


SIZES = [
    ((480, 640), (90, 120)),
    ((427, 640), (80, 120)),
    ((1000, 333), (120, 40)),
    ((97, 131), (89, 120)),
    ((50, 64), (94, 120)),  # enlarged
    ((128, 128), (128, 128)),  # as it is
    ((3, 700), (1, 120)),
    ((1, 1), (120, 120)),
]


@pytest.mark.parametrize(("size", "cells"), SIZES)
def test_masks_at_borders_empty_full_and_of_one_pixel(size, cells):
    masks = np.zeros((13, *size), bool)
    masks[1] = True
    for number, (y, x) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1), (size[0] // 2, size[1] // 2)], 2):
        masks[number, y, x] = True
    masks[7, 0] = masks[8, -1] = masks[9, :, 0] = masks[10, :, -1] = True
    masks[11, size[0] // 3 :, size[1] // 3 :] = True
    masks[12] = ~masks[6]
    assert_same(masks, cells)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 60), st.integers(1, 60), st.integers(2, 40), st.integers(2, 40))
def test_any_masks_of_any_size(data, height, width, h, w):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shares = data.draw(st.lists(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]), min_size=1, max_size=5))
    assert_same(np.stack([random.random((height, width)) < share for share in shares]), (h, w))


def test_long_runs_and_many_masks():
    y, x = np.mgrid[:480, :640]
    waves = [np.sin(x / (3 + n)) + np.sin(y / (2 + n)) > 1 - n / 20 for n in range(40)]
    assert_same(np.stack(waves), (90, 120))


def test_no_masks_and_masks_of_another_size():
    assert coverage([], (40, 30), (12, 9)).shape == (0, 12, 9)
    with pytest.raises(ValueError, match="40 x 30 pixels"):
        coverage([rle.empty(40, 30), rle.empty(30, 30)], (40, 30), (12, 9))
