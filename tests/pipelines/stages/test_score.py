"""`score` on other people's predictions, as the command line runs it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mail import rle
from mail.data.segmentation import checked_mask
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
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
        (["--explain", "seventy"], "--explain 'seventy' is no figure"),
        (["--instances", "x.json"], "--instances is for --explain"),
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


def numbered(folder: Path) -> DataStore:
    """A store as RefCOCO's: numbered sentences, photos of two sizes, annotations of two polygons."""
    writer = DataStoreWriter(folder / "store", "refcoco-unc")
    for number, (height, width) in enumerate([(60, 90), (100, 70)]):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height)).save(buffer, "JPEG")
        image_id = f"coco/{number}"
        writer.add_image(
            image_id=image_id, file_name=f"{number}.jpg", image=buffer.getvalue(), height=height, width=width
        )
        for sentence in range(2):
            target = checked_mask(POLYGONS, height, width)
            row = {"ref_id": f"refcoco-unc/{number}", "image_id": image_id, "split": "val", "text": f"thing {sentence}"}
            row |= {"target": target, "no_target": False, "ann_ids": [7 + number], "category": "thing"}
            writer.add_expression(expr_id=f"refcoco-unc/{10 + 2 * number + sentence}", **row)
    return writer.finish(sources=[{"path": "refs(unc).p", "sha256": "0" * 64, "bytes": 1}])


POLYGONS = [[5, 5, 45, 5, 45, 40, 5, 40], [35, 5, 65, 5, 65, 40, 35, 40]]  # which overlap


@pytest.fixture(scope="module")
def refcoco(tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    return numbered(tmp_path_factory.mktemp("refcoco"))


def run(store: DataStore, predictions: Path, out: Path, *more: str) -> dict[str, Any]:
    given = ["--data", store.uri, "--split", "val", "--predictions", str(predictions), "--json", str(out / "s.json")]
    assert main(["score", *given, *more]) == 0
    return json.loads((out / "s.json").read_text())


def shifted(store: DataStore, pixels: int) -> dict[int, np.ndarray]:
    rows = store.expressions(["val"]).to_pylist()
    return {int(r["expr_id"].rpartition("/")[2]): np.roll(rle.decode(r["target"]), pixels, 1) for r in rows}


def test_every_form_gives_the_same_figures(refcoco: DataStore, tmp_path: Path):
    masks = shifted(refcoco, 9)
    own = {f"refcoco-unc/{n}": Prediction(rle.encode(m)) for n, m in masks.items()}
    write_predictions(tmp_path / "p.jsonl", own)
    (tmp_path / "pngs").mkdir()
    for number, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "pngs" / f"{number}.png")
    results = [{"image_id": n, "segmentation": rle.to_json(rle.encode(m)), "score": 0.5} for n, m in masks.items()]
    (tmp_path / "results.json").write_text(json.dumps(results))
    torch.save(
        [{"sent_info": {"sent_id": n}, "pred_mask": m.astype(np.int8)} for n, m in masks.items()], tmp_path / "p.pth"
    )
    np.savez(tmp_path / "p.npz", **{str(n): m for n, m in masks.items()})
    found = {
        name: run(refcoco, tmp_path / name, tmp_path) for name in ("p.jsonl", "pngs", "results.json", "p.pth", "p.npz")
    }
    assert {name: f["predictions"]["joined_by"] for name, f in found.items()} == {
        "p.jsonl": "expr_id", **dict.fromkeys(("pngs", "results.json", "p.pth", "p.npz"), "sentence id")
    }  # fmt: skip
    figures = [(f["oIoU"], f["mIoU"], f["prec"], f["per_expression"]) for f in found.values()]
    assert all(one == figures[0] for one in figures)
    assert 0 < figures[0][0] < 1


def test_a_networks_size_is_said_and_counted_as_it_is_where_the_protocol_is_of_it(
    refcoco: DataStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    masks = {str(n): np.asarray(Image.fromarray(m).resize((480, 480), Image.Resampling.NEAREST))
             for n, m in shifted(refcoco, 0).items()}  # fmt: skip
    np.savez_compressed(tmp_path / "p.npz", **masks)
    assert run(refcoco, tmp_path / "p.npz", tmp_path, "--protocol", "lavt")["oIoU"] == 1
    assert "all masks are 480 x 480, a network's size" in capsys.readouterr().err
    found = run(refcoco, tmp_path / "p.npz", tmp_path)
    assert "enlarged by nearest neighbour" in capsys.readouterr().err
    assert found["oIoU"] == 1  # no photo has a side of more than 480, so that nothing is lost on the way back
    assert found["predictions"]["network_size"] == [480, 480]


def test_a_stated_number_is_explained_on_the_screen_and_in_the_json(
    refcoco: DataStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    masks = {n: np.roll(mask, n - 10, 1) for n, mask in shifted(refcoco, 3).items()}
    np.savez(tmp_path / "p.npz", **{str(n): np.where(m, 0.4, 0.1) for n, m in masks.items()})
    stated = f"{100 * run(refcoco, tmp_path / 'p.npz', tmp_path, '--protocol', 'cris')['mIoU']:.2f}"
    capsys.readouterr()
    found = run(refcoco, tmp_path / "p.npz", tmp_path, "--explain", stated)["explained"]
    assert (found["ways"][0]["figure"], found["ways"][0]["protocol"]) == ("mIoU", "cris")
    assert "foreground from .35" in found["ways"][0]["differs"]
    assert found["words"].startswith(f"{stated} is the mIoU of protocol cris: foreground from .35")
    printed = capsys.readouterr().out
    assert f"what comes near {stated}" in printed
    assert " ".join(found["words"].split()[:6]) in printed.replace("\n", " ")


def test_summed_polygons_are_tried_with_the_annotations_at_hand(refcoco: DataStore, tmp_path: Path):
    images = [
        {"id": n, "file_name": f"{n}.jpg", "height": h, "width": w} for n, (h, w) in enumerate([(60, 90), (100, 70)])
    ]
    annotations = [
        {"id": 7 + n, "image_id": n, "category_id": 1, "segmentation": POLYGONS, "iscrowd": 0} for n in (0, 1)
    ]
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    write_predictions(tmp_path / "p.jsonl", truth(refcoco, "val"))
    overlap = 10 * 35 / (60 * 35)
    more = ["--instances", str(tmp_path / "instances.json"), "--explain", f"{100 * (1 - overlap):.2f}"]
    first = run(refcoco, tmp_path / "p.jsonl", tmp_path, *more)["explained"]["ways"][0]
    assert (first["figure"], first["value"]) == ("oIoU", pytest.approx(1 - overlap))
    assert first["differs"] == ["targets are the polygons summed, where the sum is 1"]
    (tmp_path / "instances.json").write_text(json.dumps(instances | {"annotations": annotations[:1]}))
    given = ["--data", refcoco.uri, "--split", "val", "--predictions", str(tmp_path / "p.jsonl")]
    assert main(["score", *given, *more]) == 2
