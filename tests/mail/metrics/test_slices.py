"""Slices of a split."""

import numpy as np
import pyarrow as pa
import pytest

from mail import rle
from mail.data import schema
from mail.metrics.slices import kind_of_words, length_class, members, size_class, slice_expressions, tokenize


def table(*rows: tuple[str, str, str, int, list[int], str]) -> pa.Table:
    """Expressions from (id, image, text, side of the square target, annotations, category)."""
    made = []
    for expr_id, image_id, text, side, ann_ids, category in rows:
        mask = np.zeros((200, 200), bool)
        mask[:side, :side] = True
        row = {"expr_id": expr_id, "ref_id": expr_id, "image_id": image_id, "split": "val", "text": text}
        target = {"target": rle.encode(mask), "no_target": not side, "ann_ids": ann_ids, "category": category}
        made.append({**row, **target})
    return pa.Table.from_pylist(made, schema.EXPRESSIONS)


def test_every_expression_has_a_value_in_every_slice():
    expressions = table(
        ("a", "1", "left man", 10, [1], "person"),
        ("b", "1", "woman in the red dress at the left of the big old tree", 50, [2], "person"),
        ("c", "1", "dog", 120, [3], "dog"),
        ("d", "2", "unicorn", 0, [], ""),
    )
    found = slice_expressions(expressions)
    assert found["category"] == {"a": "person", "b": "person", "c": "dog", "d": "(none)"}
    assert found["words"] == {"a": "1-2", "b": "11+", "c": "1-2", "d": "1-2"}
    assert found["target size"] == {"a": "small", "b": "medium", "c": "large", "d": "none"}
    assert found["same category"] == {"a": "1", "b": "1", "c": "0", "d": "0"}
    assert found["kind of words"] == {"a": "place", "b": "both", "c": "neither", "d": "neither"}


def test_expressions_are_told_apart_by_how_many_annotations_they_name():
    expressions = table(
        ("a", "1", "left man", 10, [1], "person"),
        ("b", "1", "both men", 50, [1, 2], "person"),
        ("c", "1", "everybody", 120, [1, 2, 3, 4], "person"),
        ("d", "1", "unicorn", 0, [], ""),
        ("e", "1", "the corner", 10, [], ""),
    )
    assert slice_expressions(expressions)["targets"] == {"a": "1", "b": "2", "c": "3+", "d": "none", "e": "1"}


def test_where_every_expression_names_one_annotation_their_number_is_no_slice():
    assert "targets" not in slice_expressions(table(("a", "1", "left man", 10, [1], "person")))


def test_distractors_are_referents_of_all_splits_of_the_store():
    split = table(("a", "1", "man", 10, [1], "person"))
    store = table(*(("x", "1", "man", 10, [n], "person") for n in range(1, 7)))
    assert slice_expressions(split, store)["same category"] == {"a": "3+"}


def test_members_partition_the_split_largest_group_first():
    assert members({"words": {"a": "1-2", "b": "3-5", "c": "3-5"}}) == {"words": {"3-5": ["b", "c"], "1-2": ["a"]}}


@pytest.mark.parametrize(("words", "name"), [(0, "1-2"), (2, "1-2"), (3, "3-5"), (10, "6-10"), (27, "11+")])
def test_length_classes(words: int, name: str):
    assert length_class(words) == name


@pytest.mark.parametrize(("area", "name"), [(0, "none"), (1023, "small"), (1024, "medium"), (9216, "large")])
def test_size_classes_are_cocos(area: int, name: str):
    assert size_class(area) == name


def test_words_are_found_in_any_writing():
    assert tokenize("LEFT-most man's hat, 2nd") == ["left", "most", "man's", "hat", "2nd"]
    assert kind_of_words(tokenize("Red!")) == "attribute"
