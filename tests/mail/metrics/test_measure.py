"""Figures computed by hand, and properties that hold for any masks."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail import rle
from mail.errors import UserError
from mail.metrics import Accumulator, Counts, count, measure
from mail.metrics.measure import iou
from mail.metrics.protocols import PROTOCOLS


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (10, 20)) -> rle.RLE:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return rle.encode(mask)


def test_counts_are_pixels_of_the_decoded_masks():
    prediction, target = box(0, 0, 4, 5), box(2, 0, 4, 5)  # 20 pixels each, 2 rows of 5 in common
    assert count(prediction, target) == Counts(intersection=10, union=30, predicted=20, target=20)


def test_golden_figures():
    # IoUs 10/30, 20/20, 0/40: mean 4/9, overall 30/90
    accumulator = Accumulator()
    accumulator.add("a", box(0, 0, 4, 5), box(2, 0, 4, 5))
    accumulator.add("b", box(0, 0, 4, 5), box(0, 0, 4, 5))
    accumulator.add("c", box(0, 0, 4, 5), box(0, 10, 4, 5))
    found = measure(accumulator.counts)
    assert found.oIoU == 30 / 90
    assert found.mIoU == pytest.approx(4 / 9, abs=1e-15)
    assert found.prec == dict.fromkeys(("0.5", "0.6", "0.7", "0.8", "0.9"), 1 / 3)
    assert found.expressions == 3


def test_an_iou_on_the_threshold_counts_except_where_the_protocol_is_strict():
    # 7 of 10 pixels: the float 7 / 10 and the float 0.7 need not compare as 7/10 and 0.7 do
    counts = {"a": Counts(7, 10, 7, 10), "b": Counts(9, 10, 9, 10)}
    assert measure(counts).prec == {"0.5": 1, "0.6": 1, "0.7": 1, "0.8": 0.5, "0.9": 0.5}
    assert measure(counts, PROTOCOLS["cris"]).prec == {"0.5": 1, "0.6": 1, "0.7": 0.5, "0.8": 0.5, "0.9": 0}


def test_grefcoco_figures_by_hand():
    counts = {
        "right no-target": Counts(0, 0, 0, 0),
        "missed no-target": Counts(0, 40, 40, 0),
        "found": Counts(30, 60, 40, 50),
        "found nothing": Counts(0, 50, 0, 50),
    }
    found = measure(counts)
    assert found.gIoU == (1 + 0 + 0.5 + 0) / 4
    assert found.cIoU == 30 / (0 + 40 + 60 + 50)
    assert found.n_acc == 1 / 2  # TP 1, FN 1
    assert found.t_acc == 1 / 2  # TN 1, FP 1
    assert found.prec["0.5"] == 1 / 2  # of the two targeted ones
    assert found.prec["0.6"] == 0
    assert found.no_target == 2


def test_empty_against_empty_is_right_under_our_protocol_and_zero_in_lavts_code():
    counts = count(None, rle.empty(10, 20))
    assert counts == Counts(0, 0, 0, 0)
    assert iou(counts) == 1
    assert iou(counts, PROTOCOLS["lavt"]) == 0
    assert measure({"a": counts}).oIoU is None  # 0 of 0 pixels
    assert measure({"a": counts}, PROTOCOLS["lavt"]).gIoU == 1


def test_empty_against_non_empty_is_zero_both_ways():
    assert iou(count(None, box(0, 0, 2, 2))) == 0
    assert iou(count(box(0, 0, 2, 2), rle.empty(10, 20))) == 0
    assert count(None, box(0, 0, 2, 2)) == count(rle.empty(10, 20), box(0, 0, 2, 2))


def test_nothing_at_all_has_no_figures():
    found = measure({})
    assert (found.expressions, found.oIoU, found.mIoU, found.n_acc) == (0, None, None, None)


def test_another_size_is_refused_with_the_expression():
    with pytest.raises(UserError, match=r"refcoco/7: the predicted mask is 20x10 .* the image 10x20"):
        Accumulator().add("refcoco/7", rle.empty(20, 10), rle.empty(10, 20))


def test_an_expression_counts_once():
    accumulator = Accumulator()
    accumulator.add("a", None, box(0, 0, 2, 2))
    with pytest.raises(UserError, match="counted twice"):
        accumulator.add("a", None, box(0, 0, 2, 2))
    with pytest.raises(UserError, match="counted twice"):
        accumulator.merge(accumulator)


def test_missing_and_unknown_expressions_are_refused():
    accumulator = Accumulator(counts={"a": Counts(1, 2, 1, 2), "z": Counts(1, 2, 1, 2)})
    with pytest.raises(UserError, match=r"1 of 2 expressions are missing \(b\); 1 are not of this split \(z\)"):
        accumulator.check_coverage(["a", "b"])
    accumulator.check_coverage(["z", "a"])


def test_counts_of_different_protocols_do_not_mix():
    with pytest.raises(UserError, match="protocols original and lavt"):
        Accumulator().merge(Accumulator(PROTOCOLS["lavt"]))


masks = st.integers(0, 2**12 - 1).map(lambda bits: np.array([bits >> i & 1 for i in range(12)], bool).reshape(3, 4))


@given(masks, masks)
def test_counts_equal_those_of_decoded_masks(prediction: np.ndarray, target: np.ndarray):
    found = count(rle.encode(prediction), rle.encode(target))
    expected = (prediction & target, prediction | target, prediction, target)
    assert found == Counts(*(int(m.sum()) for m in expected))


pairs = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40)


@settings(deadline=None)
@given(pairs, st.integers(1, 5), st.randoms())
def test_figures_do_not_depend_on_order_sharding_or_grouping(pairs: list, shards: int, rng: random.Random):
    counts = [(f"e{n}", Counts(i, i + a + b, i + a, i + b)) for n, (i, a, b) in enumerate(pairs)]
    whole = measure(dict(counts))
    rng.shuffle(counts)
    parts = [Accumulator(counts=dict(counts[n::shards])) for n in range(shards)]
    rng.shuffle(parts)
    while len(parts) > 1:  # any two of them first
        left, right = parts.pop(rng.randrange(len(parts))), parts.pop(rng.randrange(len(parts)))
        parts.insert(rng.randrange(len(parts) + 1), left.merge(right))
    assert measure(parts[0].counts) == whole
    assert whole.mIoU is not None
    exact = math.fsum(iou(c) for _, c in counts) / len(counts)
    assert whole.mIoU == exact
