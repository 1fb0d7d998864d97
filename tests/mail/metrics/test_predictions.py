"""Reading and scoring anyone's predictions: what is wrong is said with its line or file, never passed over."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mail import rle
from mail.data import schema
from mail.errors import UserError
from mail.metrics import (
    Counts,
    read_per_expression,
    read_predictions,
    score_predictions,
    write_predictions,
)
from mail.metrics.predictions import Prediction, PredictionSet
from mail.metrics.protocols import PROTOCOLS
from mail.metrics.report import write_per_expression

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:5] = True


def split(*ids: str) -> pa.Table:
    rows = [{"expr_id": e, "target": rle.encode(MASK), "text": "x", "image_id": "1"} for e in ids]
    return pa.Table.from_pylist(rows, schema.EXPRESSIONS)


def predictions(*ids: str) -> PredictionSet:
    return PredictionSet("file", {e: Prediction(rle.encode(MASK)) for e in ids})


def test_predictions_survive_being_written_and_read(tmp_path: Path):
    written = {"d/1": Prediction(rle.encode(MASK), 0.5, [3, 1], True), "d/0": Prediction(None, 0.0)}
    write_predictions(tmp_path / "p.jsonl", written)
    found = read_predictions(tmp_path / "p.jsonl")
    assert found.masks == written
    assert [json.loads(line)["expr_id"] for line in (tmp_path / "p.jsonl").read_text().splitlines()] == ["d/0", "d/1"]


def test_plain_run_lengths_are_read_too(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"expr_id": "a", "rle": {"size": [2, 3], "counts": [1, 2, 3]}}\n\n')
    mask = read_predictions(tmp_path / "p.jsonl").masks["a"].rle
    assert mask is not None
    assert rle.decode(mask).T.ravel().tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("7", "expr_id"),
        ('{"expr_id": 7, "rle": null}', 'is a number: write it as the store does, "refcoco-unc/7"'),
        ('{"expr_id": "a", "rle": null, "score": 1.5}', "is 1.5: it must lie between 0 and 1"),
        ('{"expr_id": "a", "rle": null, "no_target": 1}', "neither true nor false"),
        ('{"expr_id": "a"}', 'no "rle"'),
        ('{"expr_id": "a", "rle": {"size": [0, 3], "counts": ""}}', "size"),
        ('{"expr_id": "a", "rle": {"size": [2], "counts": ""}}', "size"),
        ('{"expr_id": "a", "rle": {"size": [2, 3], "counts": [1, 2]}}', "add up to 3"),
        ('{"expr_id": "a", "rle": {"size": [2, 3], "counts": "5"}}', "add up to 5"),
        ('{"expr_id": "a", "rle": {"size": [2, 3], "counts": "\u00e9"}}', "invalid"),
        ('{"expr_id": "a", "rle": {"size": [2, 3], "counts": 6}}', "neither"),
        ('{"expr_id": "a", "rle": null, "score": "high"}', "score"),
        ('{"expr_id": "a", "rle": null, "selection": ["x"]}', "selection"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, reason: str):
    (tmp_path / "p.jsonl").write_text('{"expr_id": "fine", "rle": null}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"p\.jsonl, line 2: .*{reason}"):
        read_predictions(tmp_path / "p.jsonl")


def test_a_missing_file_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="no predictions file"):
        read_predictions(tmp_path / "none.jsonl")


def test_every_expression_is_scored_once():
    accumulator, coverage = score_predictions(split("a", "b"), predictions("b", "a"), split="val")
    assert accumulator.counts == dict.fromkeys("ab", Counts(9, 9, 9, 9))
    assert coverage.to_dict() == {"missing": 0, "unknown": 0, "doubled": 0}


def test_missing_and_unknown_predictions_are_counted_and_refused():
    with pytest.raises(UserError, match=r"2 of the 3 expressions of val are missing \(b, c\); 1 are not in val \(z\)"):
        score_predictions(split("a", "b", "c"), predictions("a", "z"), split="val")


def test_an_id_without_its_data_sets_name_is_understood_and_refused():
    with pytest.raises(UserError, match=r"1 are not in val \(7; did you mean refcoco-unc/7\?\)"):
        score_predictions(split("refcoco-unc/7"), predictions("7"), split="val")


def test_an_array_is_not_taken_for_lines(tmp_path: Path):
    (tmp_path / "p.json").write_text('[\n  {"expr_id": "a", "rle": null}\n]\n')
    with pytest.raises(UserError, match=r"p\.json holds one JSON array: write each prediction on a line of its own"):
        read_predictions(tmp_path / "p.json")


def test_a_missing_prediction_may_count_as_the_empty_mask():
    found, coverage = score_predictions(split("a", "b"), predictions("a", "z"), split="val", allow_missing=True)
    assert found.counts == {"a": Counts(9, 9, 9, 9), "b": Counts(0, 9, 0, 9)}
    assert coverage.to_dict() == {"missing": 1, "unknown": 1, "doubled": 0}


def test_doubled_predictions_are_always_refused(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"expr_id": "a", "rle": null}\n' * 2)
    found = read_predictions(tmp_path / "p.jsonl")
    for allow_missing in (False, True):
        with pytest.raises(UserError, match=r"1 come more than once \(a\)"):
            score_predictions(split("a"), found, split="val", allow_missing=allow_missing)


def test_masks_of_another_size_are_refused():
    other = PredictionSet("file", {"a": Prediction(rle.empty(8, 6))})
    with pytest.raises(UserError, match="a: the predicted mask is 8x6"):
        score_predictions(split("a"), other, split="val")


def test_masks_of_a_networks_size_are_enlarged_by_nearest_neighbour_or_counted_as_they_are():
    small = np.random.default_rng(0).random((480, 480)) < 0.5
    rows, masks = split("a", "b").to_pylist(), PredictionSet("file", {e: Prediction(rle.encode(small)) for e in "ab"})
    tall = Image.fromarray(small).resize((300, 700), Image.Resampling.NEAREST)
    rows[1]["target"] = rle.encode(np.asarray(tall))
    expressions = pa.Table.from_pylist(rows, schema.EXPRESSIONS)
    original, coverage = score_predictions(expressions, masks, split="val")
    assert coverage.network_size == (480, 480)
    assert original.counts["b"].intersection == original.counts["b"].union == int(np.asarray(tall).sum())
    squashed, _ = score_predictions(expressions, masks, split="val", protocol=PROTOCOLS["lavt"])
    assert [squashed.counts[e].predicted for e in "ab"] == [int(small.sum())] * 2
    # one that is not of that size makes it nobody's
    masks.masks["b"] = Prediction(rows[1]["target"])
    with pytest.raises(UserError, match="a: the predicted mask is 480x480"):
        score_predictions(expressions, masks, split="val")


def test_counts_per_expression_survive_being_written_and_read(tmp_path: Path):
    accumulator, _ = score_predictions(split("a", "b"), predictions("a"), split="val", allow_missing=True)
    write_per_expression(tmp_path / "e.jsonl", accumulator)
    assert read_per_expression(tmp_path / "e.jsonl") == accumulator
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])["iou"] == 1
    (tmp_path / "e.jsonl").write_text('{"expr_id": "a"}\n')
    with pytest.raises(UserError, match="does not hold counts"):
        read_per_expression(tmp_path / "e.jsonl")
