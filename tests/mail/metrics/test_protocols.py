"""Ways of counting, against what the published code does."""

import numpy as np
import pytest
from PIL import Image

from mail import rle
from mail.errors import UserError
from mail.metrics import count, get_protocol
from mail.metrics.protocols import PROTOCOLS, squash


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


def test_cris_takes_pixels_from_a_lower_probability():
    assert [PROTOCOLS[n].threshold for n in ("original", "lavt", "cris", "rela")] == [0.5, 0.5, 0.35, 0.5]


def test_an_unknown_protocol_names_those_there_are():
    with pytest.raises(UserError, match="original, lavt, cris, rela"):
        get_protocol("refer")
