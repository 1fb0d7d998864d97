"""A share of every step is rehearsed: exactly, in order, whoever asks for it."""

import numpy as np
import pytest

from mail.data.epoch_plan import EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.data.rehearsal import RehearsedPlan
from mail.errors import UserError
from tests.boxes import make_boxes

OFFSETS = (1000, 100)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> RehearsedPlan:
    stores = [make_boxes(tmp_path_factory.mktemp("boxes"), images).store for images in (12, 30)]
    own, old = (EpochPlan(ExpressionIndex.read(store, "train"), 8, 3, "all", 2) for store in stores)
    return RehearsedPlan(own, old, 0.3, OFFSETS)


def test_the_share_is_exact_and_both_stores_are_gone_through_in_their_own_order(plan):
    rows = [batch.rows for batch in plan.batches(0, 60)]
    assert [len(r) for r in rows] == [8] * 60
    assert sum((r >= OFFSETS[0]).sum() for r in rows) == 60 * 8 * 0.3
    assert {int((r >= OFFSETS[0]).sum()) for r in rows} == {2, 3}
    seen = np.concatenate(rows)
    own, old = seen[seen < OFFSETS[0]], seen[seen >= OFFSETS[0]] - OFFSETS[0]
    np.testing.assert_array_equal(own, plan.own.index.row[plan.own.positions(0, len(own))])
    np.testing.assert_array_equal(old, plan.old.index.row[plan.old.positions(0, len(old))])
    assert sorted(own[: plan.expressions_per_epoch]) == sorted(plan.own.index.row)


def test_a_step_is_the_same_wherever_it_begins_and_however_it_is_shared(plan):
    (whole,) = plan.batches(17, 18)
    parts = [b for rank in range(3) for b in plan.batches(17, 18, rank, 3, micro_batch_size=2)]
    for name in ("rows", "images"):
        np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in parts]), getattr(whole, name))
    assert {b.total for b in parts} == {8}


def test_a_share_of_all_or_nothing_is_refused(plan):
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            RehearsedPlan(plan.own, plan.old, share, OFFSETS)
