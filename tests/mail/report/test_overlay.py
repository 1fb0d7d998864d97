"""Masks drawn on images."""

import numpy as np

from mail.report import overlay
from mail.report.overlay import PREDICTION, TARGET, outline

IMAGE = np.full((40, 60, 3), 100, np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:30, 10:40] = True


def test_the_prediction_is_tinted_and_nothing_outside_changes():
    drawn = np.asarray(overlay(IMAGE, MASK))
    assert (drawn[~MASK] == 100).all()
    assert (drawn[10, 20] == PREDICTION).all()  # its border
    assert (drawn[20, 20] != 100).any()  # its inside


def test_the_ground_truth_is_a_line_around_an_untouched_inside():
    drawn = np.asarray(overlay(IMAGE, target=MASK))
    assert (drawn[29, 39] == TARGET).all()
    assert (drawn[15:25, 15:35] == 100).all()


def test_a_mask_at_the_picture_edge_is_outlined_there_too():
    whole = np.ones((40, 60), bool)
    assert (outline(IMAGE, whole, TARGET)[0] == TARGET).all()


def test_words_go_below_the_picture_and_wrap():
    picture = overlay(IMAGE, text="a rather long expression about the second cup from the left")
    assert picture.width == 60
    assert picture.height > 80
