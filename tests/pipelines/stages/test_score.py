"""`score` on other people's predictions, as the command line runs it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mail import rle
from mail.data.store import DataStore
from mail.metrics import write_predictions
from mail.metrics.predictions import Prediction
from pipelines.__main__ import main
from tests.boxes import Boxes, make_boxes


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"), images=16)


def truth(store: DataStore, split: str) -> dict[str, Prediction]:
    rows = store.expressions([split], ["expr_id", "target"]).to_pylist()
    return {r["expr_id"]: Prediction(r["target"]) for r in rows}


def score(boxes: Boxes, predictions: Path, *more: str) -> int:
    return main(["score", "--data", boxes.store_uri, "--split", "val", "--predictions", str(predictions), *more])


def test_the_ground_truth_scores_one_and_the_json_has_the_promised_keys(boxes: Boxes, tmp_path: Path):
    write_predictions(tmp_path / "p.jsonl", truth(boxes.store, "val"))
    files = ["--json", str(tmp_path / "s.json"), "--per-expression", str(tmp_path / "e.jsonl")]
    assert score(boxes, tmp_path / "p.jsonl", *files) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert list(found)[:6] == ["protocol", "split", "expressions", "oIoU", "mIoU", "prec"]
    expressions = boxes.store.splits["val"]["expressions"]
    assert (found["protocol"], found["split"], found["expressions"]) == ("original", "val", expressions)
    assert (found["oIoU"], found["mIoU"]) == (1, 1)
    assert found["prec"] == dict.fromkeys(("0.5", "0.6", "0.7", "0.8", "0.9"), 1)
    assert found["data_store"]["digest"] == boxes.store.digest
    assert len(found["per_expression"]) == expressions
    assert sum(group["expressions"] for group in found["slices"]["words"].values()) == expressions
    assert len((tmp_path / "e.jsonl").read_text().splitlines()) == expressions


def test_a_folder_of_pngs_scores_like_the_file(boxes: Boxes, tmp_path: Path):
    (tmp_path / "masks").mkdir()
    for expr_id, prediction in truth(boxes.store, "val").items():
        name = expr_id.replace("/", "__") + ".png"
        Image.fromarray(rle.decode(prediction.rle or {})).save(tmp_path / "masks" / name)
    assert score(boxes, tmp_path / "masks", "--json", str(tmp_path / "s.json")) == 0
    assert json.loads((tmp_path / "s.json").read_text())["mIoU"] == 1


def test_missing_predictions_are_refused_unless_allowed(
    boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    some = truth(boxes.store, "val")
    some.pop(min(some))
    write_predictions(tmp_path / "p.jsonl", some)
    assert score(boxes, tmp_path / "p.jsonl", "--json", str(tmp_path / "s.json")) == 2
    assert "1 of the" in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()
    assert score(boxes, tmp_path / "p.jsonl", "--json", str(tmp_path / "s.json"), "--allow-missing") == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["predictions"]["missing"] == 1
    assert found["mIoU"] == (found["expressions"] - 1) / found["expressions"]


def test_every_printed_number_says_protocol_split_store_and_count(
    boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_predictions(tmp_path / "p.jsonl", truth(boxes.store, "val"))
    assert score(boxes, tmp_path / "p.jsonl", "--protocol", "cris") == 0
    printed = capsys.readouterr().out
    figures, _, slices = printed.partition("slices of")
    summary = printed.splitlines()[-1]
    for text in (figures, slices, summary):
        for part in ("cris", "val", boxes.store.digest[:12], str(boxes.store.splits["val"]["expressions"])):
            assert part in text


def test_two_models_are_compared_on_the_same_expressions(boxes: Boxes, tmp_path: Path):
    write_predictions(tmp_path / "good.jsonl", truth(boxes.store, "val"))
    write_predictions(tmp_path / "bad.jsonl", dict.fromkeys(truth(boxes.store, "val"), Prediction(None)))
    assert score(boxes, tmp_path / "bad.jsonl", "--per-expression", str(tmp_path / "bad.e")) == 0
    compare = ["--compare", str(tmp_path / "bad.e"), "--json", str(tmp_path / "s.json")]
    assert score(boxes, tmp_path / "good.jsonl", *compare) == 0
    assert json.loads((tmp_path / "s.json").read_text())["compared"]["mIoU"]["lower"] == 1
    assert score(boxes, tmp_path / "good.jsonl", *compare, "--protocol", "lavt") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "minival"], "no split 'minival'"),
        (["--data", "nowhere"], "nowhere is not a data store"),
        (["--predictions", "nowhere.jsonl"], "no predictions file"),
        (["--protocol", "refer"], "no protocol 'refer'"),
    ],
)
def test_wrong_input_is_one_clear_line(
    boxes: Boxes, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    write_predictions(tmp_path / "p.jsonl", truth(boxes.store, "val"))
    given = {"--data": boxes.store_uri, "--split": "val", "--predictions": str(tmp_path / "p.jsonl")}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    for dry_run in ([], ["--dry-run"]):
        assert main(["score", *(part for pair in given.items() for part in pair), *dry_run]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert message in error[-1]
