"""The order of training: complete, exact, resumable, the same for any number of workers."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mail import rle
from mail.data.epoch_plan import EpochPlan, ExpressionIndex, RowGroups
from mail.data.store import DataStore, DataStoreWriter
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


def rows_of(plan: EpochPlan, start: int, stop: int, **shares: int) -> list[list[int]]:
    steps: list[list[int]] = [[] for _ in range(start, stop)]
    for batch in plan.batches(start, stop, **shares):
        steps[batch.step - start] += batch.rows.tolist()
    return steps


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(0, 3))
def test_an_epoch_takes_each_expression_or_ref_exactly_once(plan, epoch):
    chosen = plan.epoch(epoch)
    if plan.rule == "all":
        assert sorted(chosen) == list(range(len(plan.index)))
    else:
        assert sorted(plan.index.ref[chosen]) == sorted(set(plan.index.ref))


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(1, 5), st.integers(1, 7))
def test_the_stream_is_the_epochs_one_after_another(plan, epochs, start):
    whole = np.concatenate([plan.epoch(e) for e in range(epochs)])
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
    counts = np.bincount(np.concatenate([plan.epoch(e) for e in range(600)]), minlength=len(plan.index))
    of_three = counts[plan.index.image % 3 == 2]
    assert of_three.min() > 150
    assert of_three.max() < 250


def test_epochs_and_seeds_have_their_own_order():
    index = make_index([2] * 64, 2)
    first, other = EpochPlan(index, 8, seed=1, rule="all"), EpochPlan(index, 8, seed=2, rule="all")
    assert first.epoch(0).tolist() != first.epoch(1).tolist()
    assert first.epoch(0).tolist() != other.epoch(0).tolist()


def test_the_order_is_the_same_on_every_machine():
    plan = EpochPlan(make_index([1, 2, 3, 0, 2, 1] * 5, 3), 8, seed=2024, window_groups=2)
    assert plan.positions(0, 12).tolist() == [38, 40, 59, 52, 56, 60, 78, 43, 41, 29, 26, 30]


def test_pieces_keep_an_images_expressions_together_up_to_their_size():
    plan = EpochPlan(make_index([3] * 30, 2), 8, rule="all", expressions_per_piece=2)
    images = plan.index.image[plan.epoch(0)]
    runs = np.diff(np.flatnonzero(np.append(np.append(True, np.diff(images) != 0), True)))
    assert np.mean(runs == 2) > 0.6


def test_more_workers_than_expressions_are_refused():
    with pytest.raises(UserError, match="cannot be shared by 5 workers"):
        list(EpochPlan(make_index([3] * 8, 1), 4).batches(0, 1, rank=0, world=5))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DataStore:
    writer = DataStoreWriter(tmp_path_factory.mktemp("plan") / "store", "plan")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG")
    for number in range(20):
        image_id = f"made/{number:03d}"
        height = 0 if number == 3 else 6
        writer.add_image(image_id=image_id, file_name="a.jpg", image=buffer.getvalue(), height=height, width=8)
        for sentence in range(3):
            writer.add_expression(
                expr_id=f"made/{number}-{sentence}",
                ref_id=f"made/ref-{number}-{sentence // 2}",
                image_id=image_id,
                split="val" if number % 5 == 0 else "train",
                text=f"thing {sentence}",
                target=rle.empty(6, 8),
                no_target=False,
                ann_ids=[number],
                category="thing",
            )
    return writer.finish()


def test_the_index_finds_a_splits_expressions_by_row_number(store):
    index = ExpressionIndex.read(store, "train")
    table = store.expressions()
    assert set(table["split"].take(index.row).to_pylist()) == {"train"}
    assert table["image_id"].take(index.row).to_pylist() == store.image_index["image_id"].take(index.image).to_pylist()
    assert len(set(index.ref.tolist())) == 2 * 15


def test_images_that_cannot_be_used_are_counted_and_left_out(store):
    index = ExpressionIndex.read(store, "train", unusable=["made/004"])
    assert (index.skipped_images, index.skipped_expressions) == (2, 6)
    assert not {3, 4} & set(index.image.tolist())


def test_an_unknown_split_is_named(store):
    with pytest.raises(UserError, match="no split 'trian'"):
        ExpressionIndex.read(store, "trian")
