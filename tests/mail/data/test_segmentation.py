"""Masks that others wrote are checked before any C code reads them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail import rle
from mail.data.segmentation import checked_mask, find_invalid, why_invalid


def test_masks_that_pycocotools_wrote_are_valid():
    random = np.random.default_rng(0)
    sizes = [(1, 1), (480, 640), (3, 5000), (64, 64)]
    masks = [rle.encode(random.random(s) < p) for s in sizes for p in (0, 0.001, 0.5, 1)]
    counts, pixels = [m["counts"] for m in masks], [m["size"][0] * m["size"][1] for m in masks]
    assert find_invalid(counts, pixels) == {}
    assert not any(map(why_invalid, counts, pixels))


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (b"", "empty"),
        (b"\x7f5", "characters"),
        (b"\xc3\xa95", "characters"),
        (b"4\x80", "characters"),
        (b"1P", "cut off"),
        (b"ZZZZZZZZZZZZ0", "more pixels"),
        (b"O", "negative"),
        (b"0", "add up to 0 pixels"),
        (b"5", "add up to 5 pixels"),
    ],
)
def test_each_kind_of_damage_is_found(counts: bytes, reason: str):
    good = rle.encode(np.ones((10, 10), bool))["counts"]
    problems = find_invalid([good, counts, good], [100, 100, 100])
    assert list(problems) == [1]
    assert reason in problems[1]
    assert why_invalid(counts, 100) == problems[1]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=12) | st.text("0123?ABO_PQo", max_size=12).map(str.encode), max_size=6))
def test_any_bytes_are_judged_and_never_raise(strings: list[bytes]):
    problems = find_invalid(strings, [12] * len(strings))
    for number, counts in enumerate(strings):
        assert why_invalid(counts, 12) == problems.get(number)  # alone or among others
        if number not in problems:  # then it is a mask of 12 pixels for pycocotools as well
            assert 0 <= rle.area({"size": [3, 4], "counts": counts}) <= 12


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, float("nan"), 0, 5, 5]],
        [["0", "0", "a", "1", "2", "2"]],
        [[[0, 0], [5, 0], [5, 5], [0, 5]]],
        [{}],
        {"size": [8, 10], "counts": [10, 5]},
        {"size": [8, 10], "counts": [10, -5, 75]},
        {"size": [10, 8], "counts": [80]},
        {"size": [8, 10], "counts": "0"},  # covers less than the image: pycocotools would show stray memory
        {"size": [8, 10], "counts": "\x00\xff"},
        {"size": [8, 10], "counts": "ooooooooooooo"},
        {"size": [8, 10], "counts": "T"},
        {"counts": [80]},
        "polygon",
    ],
)
def test_unusable_segmentation_is_a_value_error(segmentation):
    with pytest.raises(ValueError, match=r"polygon|run lengths|segmentation"):
        checked_mask(segmentation, 8, 10)


def test_compressed_run_lengths_pass_unchanged():
    mask = np.random.default_rng(0).random((37, 53)) > 0.5
    published = rle.encode(mask)
    text = {"size": published["size"], "counts": published["counts"].decode()}
    for form in (published, text):
        assert checked_mask(form, 37, 53) == published
