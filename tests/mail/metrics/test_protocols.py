"""Ways of counting, against what the published code does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mail import rle
from mail.errors import UserError
from mail.metrics import count, get_protocol, measure
from mail.metrics.measure import iou
from mail.metrics.protocols import PROTOCOLS, squash, table


@pytest.mark.parametrize("size", [(427, 640), (640, 480), (96, 128), (480, 480), (1, 1000)])
def test_squashing_equals_pillows_nearest_neighbour(size: tuple[int, int]):
    mask = np.random.default_rng(0).random(size) < 0.3
    expected = Image.fromarray(mask).convert("L").resize((480, 480), Image.Resampling.NEAREST)
    assert np.array_equal(rle.decode(squash(rle.encode(mask), (480, 480))), np.asarray(expected) > 0)


def test_squashed_protocols_count_480_by_480_pixels():
    whole = rle.encode(np.ones((100, 300), bool))
    for name in ("lavt", "rela"):
        assert count(whole, whole, PROTOCOLS[name]).union == 480 * 480
    for name in ("original", "cris"):
        assert count(whole, whole, PROTOCOLS[name]).union == 100 * 300


def pixels(number: int, size: tuple[int, int] = (10, 10)) -> rle.RLE:
    """The first so many pixels."""
    return rle.encode((np.arange(size[0] * size[1]) < number).reshape(size))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_target_that_squashing_loses_is_still_one(name: str):
    point = np.zeros((1000, 1000), bool)
    point[0, 0] = True
    assert rle.area(squash(rle.encode(point), (480, 480))) == 0
    protocol = PROTOCOLS[name]
    found = measure(
        {"point": count(None, rle.encode(point), protocol), "none": count(None, pixels(0), protocol)}, protocol
    )
    assert (found.no_target, found.n_acc, found.t_acc, found.gIoU) == (1, 1.0, 0.0, 0.5)
    assert found.mIoU == {"original": 0.5, "lavt": 0.0, "cris": 0.0, "rela": 0.5}[name]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_prec_of_ious_that_are_just_as_large(name: str):
    protocol = PROTOCOLS[name]
    counts = {f"0.{n}": count(pixels(10 * n), pixels(100), protocol) for n in (5, 6, 7, 8, 9)}
    counts |= {"named nothing": count(pixels(3), pixels(0), protocol)}
    reached = [5, 4, 3, 2, 1] if not protocol.strict else [4, 3, 3, 1, 1]  # of them .6 and .8 are above .5 and .7
    among = 6 if name in ("lavt", "cris") else 5
    assert list(measure(counts, protocol).prec.values()) == [n / among for n in reached]


FLAGGED = [  # has a target, mask is empty, flag -> intersection, union, IoU, whether it counts as said by ReLA
    (True, False, True, 0, 40, 0.0, True),
    (True, False, False, 20, 40, 0.5, False),
    (True, True, None, 0, 40, 0.0, True),
    (False, False, True, 0, 0, 1.0, True),
    (False, False, None, 0, 20, 0.0, False),
    (False, True, False, 0, 0, 0.0, False),
    (False, True, None, 0, 0, 1.0, True),
]


@pytest.mark.parametrize(("targeted", "empty", "flag", "intersection", "union", "value", "said"), FLAGGED)
def test_rela_listens_to_the_flag(targeted, empty, flag, intersection, union, value, said):
    target, mask = pixels(40 * targeted), None if empty else pixels(20)
    found = count(mask, target, PROTOCOLS["rela"], flag)
    scale = 480 * 480 // 100
    assert (found.intersection, found.union, found.says_nothing) == (intersection * scale, union * scale, said)
    assert iou(found, PROTOCOLS["rela"]) == value
    assert count(mask, target, PROTOCOLS["original"], flag) == count(mask, target)


def test_cris_takes_pixels_from_a_lower_probability():
    assert [PROTOCOLS[n].threshold for n in ("original", "lavt", "cris", "rela")] == [0.5, 0.5, 0.35, 0.5]


def test_an_unknown_protocol_names_those_there_are():
    with pytest.raises(UserError, match="original, lavt, cris, rela"):
        get_protocol("refer")
    with pytest.raises(UserError, match=r"gRefCOCO's rules as published are rela"):
        get_protocol("grefcoco")


def test_the_table_of_the_documentation_is_the_protocols() -> None:
    text = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
    assert table() in text
    assert text.count("| `lavt` |") == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_prediction_of_the_protocols_size_is_counted_as_it_is(name: str):
    target = np.random.default_rng(0).random((300, 200)) < 0.5  # smaller than 480: enlarging and squashing would lose
    at_480 = np.random.default_rng(1).random((480, 480)) < 0.5
    protocol = PROTOCOLS[name]
    if protocol.resolution is None:
        with pytest.raises(ValueError, match="480x480"):
            count(rle.encode(at_480), rle.encode(target), protocol)
        return
    found = count(rle.encode(at_480), rle.encode(target), protocol)
    wanted = rle.decode(squash(rle.encode(target), (480, 480)))
    assert found[:3] == ((at_480 & wanted).sum(), (at_480 | wanted).sum(), at_480.sum())
