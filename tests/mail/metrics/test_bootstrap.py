"""Paired bootstrap of the difference of two models."""

import numpy as np
import pytest

from mail.errors import UserError
from mail.metrics import Counts, measure, paired_bootstrap


def results(seed: int, shift: float, n: int = 400) -> dict[str, Counts]:
    random = np.random.default_rng(seed)
    target = random.integers(100, 1000, n)
    hit = (target * np.clip(np.random.default_rng(1).random(n) + shift, 0, 1)).astype(int)
    return {f"e{i}": Counts(int(h), int(t), int(h), int(t)) for i, (h, t) in enumerate(zip(hit, target, strict=True))}


def test_a_model_does_not_differ_from_itself():
    same = results(0, 0)
    for difference in paired_bootstrap(same, same, resamples=200).values():
        assert difference.difference == difference.lower == difference.upper == 0


def test_a_clear_gain_has_an_interval_above_zero_around_the_difference():
    better, worse = results(0, 0.1), results(0, 0)
    found = paired_bootstrap(better, worse, resamples=1000)
    for name, difference in found.items():
        expected = getattr(measure(better), name) - getattr(measure(worse), name)
        assert difference.difference == pytest.approx(expected, abs=1e-12)
        assert 0 < difference.lower < difference.difference < difference.upper
        assert difference.positive == 1


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    random = np.random.default_rng(0)
    hits = random.integers(0, 101, 2000)
    a = {f"e{i}": Counts(int(h), 100, int(h), 100) for i, h in enumerate(hits)}
    b = {e: Counts(50, 100, 50, 100) for e in a}
    found = paired_bootstrap(a, b, resamples=2000)["mIoU"]
    half = 1.96 * (hits / 100).std() / np.sqrt(len(hits))
    assert (found.upper - found.lower) / 2 == pytest.approx(half, rel=0.1)


def test_the_result_does_not_depend_on_the_order_of_expressions():
    a, b = results(0, 0.02), results(0, 0)
    backwards = dict(reversed(a.items()))
    assert paired_bootstrap(a, b, resamples=300) == paired_bootstrap(backwards, b, resamples=300)


def test_other_expressions_or_ground_truth_are_refused():
    a = results(0, 0)
    fewer = dict(list(a.items())[1:])
    with pytest.raises(UserError, match="1 only for the candidate, 0 only for the baseline"):
        paired_bootstrap(a, fewer)
    other = {**a, "e0": Counts(0, 5, 0, 5)}
    with pytest.raises(UserError, match=r"another ground truth .* e0"):
        paired_bootstrap(a, other)
    with pytest.raises(UserError, match="no expression"):
        paired_bootstrap({}, {})
