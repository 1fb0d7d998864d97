"""The order of training: complete, exact, resumable, the same for any number of workers."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail.data.epoch_plan import EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.data.row_groups import RowGroups
from mail.errors import UserError


def make_index(refs_per_image: list[int], sentences: int) -> ExpressionIndex:
    """An index of images in row groups of 8, whose refs have 1 to `sentences` expressions."""
    image, ref = [], []
    for number, refs in enumerate(refs_per_image):
        for r in range(refs):
            count = 1 + (number + r) % sentences
            image += [number] * count
            ref += [1000 * number + r] * count
    starts = np.append(np.arange(0, len(refs_per_image), 8), len(refs_per_image)).astype(np.int64)
    groups = RowGroups(
        ("one",), starts, np.zeros(len(starts) - 1, np.int32), np.arange(len(starts) - 1, dtype=np.int32)
    )
    numbers = [np.array(a, np.int32) for a in (image, ref)]
    return ExpressionIndex(np.arange(len(image), dtype=np.int64) * 3, *numbers, groups, groups)


indices = st.builds(make_index, st.lists(st.integers(0, 3), min_size=1, max_size=40).filter(any), st.integers(1, 3))
plans = st.builds(
    EpochPlan,
    indices,
    st.integers(1, 40),
    seed=st.integers(0, 2**40),
    rule=st.sampled_from(["all", "one-per-ref"]),
    expressions_per_piece=st.integers(1, 4),
    window_groups=st.integers(1, 5),
)


def epoch_of(plan: EpochPlan, epoch: int) -> np.ndarray:
    """All of an epoch's expressions in order, as positions in the index."""
    return plan.positions(epoch * plan.expressions_per_epoch, plan.expressions_per_epoch)


def rows_of(plan: EpochPlan, start: int, stop: int, **shares: int) -> list[list[int]]:
    steps: list[list[int]] = [[] for _ in range(start, stop)]
    for batch in plan.batches(start, stop, **shares):
        steps[batch.step - start] += batch.rows.tolist()
    return steps


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(0, 3))
def test_an_epoch_takes_each_expression_or_ref_exactly_once(plan, epoch):
    chosen = epoch_of(plan, epoch)
    if plan.rule == "all":
        assert sorted(chosen) == list(range(len(plan.index)))
    else:
        assert sorted(plan.index.ref[chosen]) == sorted(set(plan.index.ref))


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(1, 5), st.integers(1, 7))
def test_the_stream_is_the_epochs_one_after_another(plan, epochs, start):
    whole = np.concatenate([epoch_of(plan, e) for e in range(epochs)])
    start = min(start, len(whole) - 1)
    assert plan.positions(start, len(whole) - start).tolist() == whole[start:].tolist()


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 5)))
def test_the_workers_together_have_the_global_batch_whatever_their_number(plan, world, micro):
    world = min(world, plan.global_batch_size)
    alone = rows_of(plan, 2, 6)
    assert all(len(rows) == plan.global_batch_size for rows in alone)
    shares = [rows_of(plan, 2, 6, rank=r, world=world, micro_batch_size=micro) for r in range(world)]
    assert [[row for share in shares for row in share[s]] for s in range(4)] == alone


@settings(max_examples=30, deadline=None)
@given(plans, st.integers(0, 30))
def test_a_plan_made_anew_gives_the_same_step(plan, step):
    before = rows_of(plan, 0, step + 1)[-1]
    assert rows_of(pickle.loads(pickle.dumps(plan)), step, step + 1)[0] == before


@settings(max_examples=30, deadline=None)
@given(plans, st.integers(1, 9))
def test_parts_respect_the_micro_batch_size(plan, micro):
    for batch in plan.batches(0, 3, micro_batch_size=micro):
        assert 0 < len(batch.rows) <= micro
        assert batch.part < batch.parts


def test_a_refs_expressions_are_drawn_evenly():
    plan = EpochPlan(make_index([1] * 16, 3), 4, seed=5)
    counts = np.bincount(np.concatenate([epoch_of(plan, e) for e in range(600)]), minlength=len(plan.index))
    of_three = counts[plan.index.image % 3 == 2]
    assert of_three.min() > 150
    assert of_three.max() < 250


def test_epochs_and_seeds_have_their_own_order():
    index = make_index([2] * 64, 2)
    first, other = EpochPlan(index, 8, seed=1, rule="all"), EpochPlan(index, 8, seed=2, rule="all")
    assert epoch_of(first, 0).tolist() != epoch_of(first, 1).tolist()
    assert epoch_of(first, 0).tolist() != epoch_of(other, 0).tolist()


def test_the_order_is_the_same_on_every_machine():
    plan = EpochPlan(make_index([1, 2, 3, 0, 2, 1] * 5, 3), 8, seed=2024, window_groups=2)
    assert plan.positions(0, 12).tolist() == [38, 40, 59, 52, 56, 60, 78, 43, 41, 29, 26, 30]


def test_pieces_keep_an_images_expressions_together_up_to_their_size():
    plan = EpochPlan(make_index([3] * 30, 2), 8, rule="all", expressions_per_piece=2)
    images = plan.index.image[epoch_of(plan, 0)]
    runs = np.diff(np.flatnonzero(np.append(np.append(True, np.diff(images) != 0), True)))
    assert np.mean(runs == 2) > 0.6


def test_more_workers_than_expressions_are_refused():
    with pytest.raises(UserError, match="cannot be shared by 5 workers"):
        list(EpochPlan(make_index([3] * 8, 1), 4).batches(0, 1, rank=0, world=5))
