"""Batches hold the right rows, and the same tensors however they are shared out."""

import pickle

import numpy as np
import torch

from mail.data.epoch_plan import EpochPlan
from mail.data.row_groups import RowReader
from mail.training.input import batches, unusable_images


def test_rows_come_in_the_order_asked_for(boxes, plan):
    reader = RowReader(boxes.store.uri, plan.index.image_groups, ["image_id"], cache_bytes=1)
    rows = np.array([17, 2, 29, 2, 9])
    ids = boxes.store.image_index["image_id"].take(rows).to_pylist()
    assert reader.take(rows)["image_id"].to_pylist() == ids


def test_a_batch_has_the_plans_expressions_each_on_its_image(boxes, plan, source):
    table = boxes.store.expressions()
    for batch in batches(source, plan, 0, 4):
        wanted = sorted(table["text"].take(batch.plan.rows).to_pylist())
        tokens = batch.tensors["input_ids"]
        assert sorted(source.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)) == wanted
        assert len(batch.tensors["pixel_values"]) == len(set(batch.plan.images.tolist()))
        assert batch.tensors["image_index"].max() == len(batch.tensors["pixel_values"]) - 1


def test_the_target_of_an_expression_is_the_box_it_names(plan, source):
    batch = next(batches(source, plan, 0, 1)).tensors
    text = source.processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    for n, words in enumerate(text):
        channel = next(c for c, colour in enumerate(("red", "green", "blue")) if colour in words)
        cells = batch["target_masks"][n] > 250
        size = cells.shape[-1]
        pixels = batch["pixel_values"][batch["image_index"][n]].float()
        small = torch.nn.functional.adaptive_avg_pool2d(pixels, size)
        assert small[:, cells].mean(1).argmax() == channel


def test_a_source_sent_to_another_process_builds_the_same(plan, source):
    there = pickle.loads(pickle.dumps(source))
    for one, two in zip(batches(source, plan, 5, 7), batches(there, plan, 5, 7), strict=True):
        assert all(torch.equal(one.tensors[k], two.tensors[k]) for k in one.tensors)


def test_proposals_are_withheld_from_the_same_images_whoever_has_them(plan, source):
    def withheld(shares: list) -> set:
        found = set()
        for batch in shares:
            _, first = np.unique(batch.plan.images, return_index=True)
            images = batch.plan.images[np.sort(first)]
            found |= {int(i) for i, v in zip(images, batch.tensors["instance_valid"], strict=True) if not v.any()}
        return found

    for step in range(6):
        alone = withheld(list(batches(source, plan, step, step + 1)))
        shared = [b for r in range(3) for b in batches(source, plan, step, step + 1, r, 3, 2)]
        assert withheld(shared) == alone
        assert len(alone) < 6


def test_a_batch_without_any_proposal_keeps_empty_slots(boxes, plan, source):
    bare = pickle.loads(pickle.dumps(source))
    bare.snapshot = None
    tensors = next(batches(bare, plan, 0, 1)).tensors
    assert tensors["instance_valid"].shape[1] == 4
    assert not tensors["instance_valid"].any()


def test_images_that_could_not_be_read_are_known_by_reason(boxes):
    assert unusable_images(boxes.masks) == {"boxes/0000": "decode_error"}


def test_an_image_is_read_once_for_several_expressions(boxes, source, plan):
    together = EpochPlan(plan.index, 12, rule="all", expressions_per_piece=6)
    batch = next(batches(source, together, 0, 1))
    assert len(batch.tensors["pixel_values"]) == 2
