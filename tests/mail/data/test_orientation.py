"""How annotations lie on a photo that EXIF turns: the sizes tell, or a choice does."""

import numpy as np
import pytest

from mail.data.images import turn_upright
from mail.data.orientation import Placement, assumption, place, turn_box

STORED, TURNED, SQUARE = (6, 9), (9, 6), (8, 8)


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("chosen", ["as-shown", "as-stored"])
def test_sizes_tell_before_any_choice(orientation, chosen):
    assert place(STORED, orientation, TURNED, chosen) == Placement(TURNED, TURNED)
    assert place(STORED, orientation, STORED, chosen) == Placement(STORED, TURNED, orientation)
    assert place(STORED, orientation, (6, 10), chosen) is None


@pytest.mark.parametrize(
    ("stored", "orientation", "declared"),
    [
        *((STORED, orientation, STORED) for orientation in (2, 3, 4)),
        *((SQUARE, orientation, SQUARE) for orientation in range(2, 9)),
        *((STORED, orientation, None) for orientation in range(2, 9)),
    ],
)
def test_where_sizes_cannot_tell_a_choice_does(stored, orientation, declared):
    upright = stored[::-1] if orientation >= 5 else stored
    assert place(stored, orientation, declared, "as-shown") == Placement(upright, upright, told=False)
    assert place(stored, orientation, declared, "as-stored") == Placement(stored, upright, orientation, told=False)


@pytest.mark.parametrize("declared", [STORED, None])
def test_nothing_is_chosen_where_nothing_is_turned(declared):
    assert place(STORED, 1, declared, "as-stored") == Placement(STORED, STORED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_as_its_mask_does(orientation):
    mask = np.zeros((7, 11), bool)
    mask[1:3, 2:6] = True
    left, top, right, bottom = turn_box((2, 1, 6, 3), (7, 11), orientation)
    expected = np.zeros_like(turn_upright(mask, orientation))
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(turn_upright(mask, orientation), expected)


def test_what_was_chosen_is_said_with_the_number_and_the_other_choice():
    said = assumption(["a", "b"], "as-shown")
    assert said.startswith("2 images are turned by EXIF")
    assert "what a viewer shows (else: --exif-annotated as-stored): a, b" in said
    assert "the stored pixels (else: --exif-annotated as-shown)" in assumption(["a"], "as-stored")
