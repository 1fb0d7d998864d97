"""What published systems write: read without running anything, joined to the right expressions, or refused by name."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mail import rle
from mail.data import schema
from mail.errors import UserError
from mail.metrics import read_any_predictions, score_predictions

SIZE = (6, 8)
# sorted as a store sorts, which is not the order of the numbers
IDS = ("d/10", "d/11", "d/12", "d/9")
TEXTS = {"d/9": "left cat", "d/10": "the cat", "d/11": "it's a dog", "d/12": "dog"}
ORDER = ("d/9", "d/10", "d/11", "d/12")


def mask(number: int) -> np.ndarray:
    """Another one for each number."""
    found = np.zeros(SIZE, bool)
    found[number % 6, 1 : 2 + number % 5] = True
    return found


MASKS = {e: mask(n) for n, e in enumerate(ORDER)}


def split(ids: tuple[str, ...] = IDS) -> pa.Table:
    rows = [
        {
            "expr_id": e,
            "ref_id": f"d/{5 if e in ORDER[:2] else 6}",
            "image_id": f"coco/{70 + n}",
            "text": TEXTS.get(e, "x"),
            "target": rle.encode(MASKS.get(e, mask(0))),
        }
        for n, e in enumerate(ids)
    ]
    return pa.Table.from_pylist(rows, schema.EXPRESSIONS)


def found(path: Path, **options: Any) -> dict[str, np.ndarray | None]:
    masks = read_any_predictions(path, split(), **options).masks
    return {e: None if p.rle is None else rle.decode(p.rle) for e, p in masks.items()}


def assert_read(path: Path, how: str) -> None:
    predictions = read_any_predictions(path, split())
    assert predictions.joined == how
    accumulator, coverage = score_predictions(split(), predictions, split="val")
    assert coverage.to_dict() == {"missing": 0, "unknown": 0, "doubled": 0}
    assert all(c.intersection == c.union > 0 for c in accumulator.counts.values())


def pngs(folder: Path, names: dict[str, str]) -> Path:
    folder.mkdir()
    for expr_id, name in names.items():
        Image.fromarray(MASKS[expr_id]).save(folder / name)
    return folder


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_folder_of_pngs_of_any_mode(tmp_path: Path, mode: str):
    own = MASKS["d/9"]
    if mode == "I;16":
        picture = Image.fromarray(own.astype(np.uint16) * 65535)
    elif mode == "P":
        picture = Image.fromarray(own.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 255, 0, 0])
    else:
        picture = Image.fromarray(own).convert("L").convert(mode)
    picture.save(tmp_path / "d__9.png")
    read = found(tmp_path)["d/9"]
    assert read is not None
    assert np.array_equal(read, own)


@pytest.mark.parametrize(
    ("names", "how"),
    [
        ({e: e.replace("/", "__") + ".png" for e in IDS}, "expr_id"),
        ({e: f"{int(e[2:]):012d}.png" for e in IDS}, "sentence id"),
        ({e: f"{n}.png" for n, e in enumerate(ORDER)}, "place"),
        ({e: f"{n}.PNG" for n, e in enumerate(ORDER, 1)}, "place"),
        (
            dict(zip(ORDER, ("5-iou=71.20-left_cat.png", "5-iou=3.00-the_cat.png", "6-iou=100.00-it's_a_dog.png",
                             "6-iou=0.00-dog.png"), strict=True)),
            "ref and words",
        ),
    ],
)  # fmt: skip
def test_pngs_are_joined_by_their_names(tmp_path: Path, names: dict[str, str], how: str):
    assert_read(pngs(tmp_path / "p", names), how)


def test_what_cris_writes_beside_its_predictions_is_left_out(tmp_path: Path):
    folder = pngs(tmp_path / "p", {"d/9": "5-iou=71.20-left_cat.png"})
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(SIZE)).save(folder / "5-mask.png")  # no mask, and not read
    (folder / "5-img.jpg").write_bytes(b"")
    read = read_any_predictions(folder, split())
    assert sorted(read.masks) == ["5-mask", "d/9"]


def test_pngs_of_no_expression_count_as_unknown(tmp_path: Path):
    Image.fromarray(mask(1)).save(tmp_path / "d__1.png")
    Image.fromarray(mask(1)).save(tmp_path / "d__2.png")
    with pytest.raises(UserError, match=r"1 are not in val \(d__2"):
        score_predictions(split(("d/1",)), read_any_predictions(tmp_path, split(("d/1",))), split="val")


def test_a_png_of_probabilities_is_not_a_mask(tmp_path: Path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(SIZE)).save(tmp_path / "9.png")
    with pytest.raises(UserError, match=r"9\.png holds the values 0, 1, 2, 3, \.\.\."):
        found(tmp_path)


def test_a_broken_png_is_named(tmp_path: Path):
    (tmp_path / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"9\.png cannot be read"):
        found(tmp_path)


def test_a_name_that_two_expressions_share_is_refused(tmp_path: Path):
    Image.fromarray(mask(1)).save(tmp_path / "a__b.png")
    with pytest.raises(UserError, match=r"a/b, a__b would share the name a__b"):
        read_any_predictions(tmp_path, split(("a/b", "a__b")))


def coco(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def result(key: str, value: object, expr_id: str, score: float = 0.9) -> dict[str, Any]:
    return {key: value, "category_id": 1, "segmentation": rle.to_json(rle.encode(MASKS[expr_id])), "score": score}


@pytest.mark.parametrize(
    ("rows", "how"),
    [
        ([{"image_id": 70, **result("sent_id", int(e[2:]), e)} for e in IDS], "sentence id"),
        ([result("image_id", int(e[2:]), e) for e in IDS], "sentence id"),
        ([result("image_id", n, e) for n, e in enumerate(ORDER)], "place"),
        ([{"image_id": 70, **result("expr_id", e, e)} for e in IDS], "expr_id"),
    ],
)
def test_coco_results_are_joined_by_what_they_have(tmp_path: Path, rows: list[dict[str, Any]], how: str):
    assert_read(coco(tmp_path / "r.json", rows), how)


def test_of_several_results_the_one_with_the_highest_score_is_meant(tmp_path: Path):
    rows = [result("sent_id", 9, "d/10", 0.2), result("sent_id", 9, "d/9", 0.8), result("sent_id", 9, "d/11", 0.8)]
    read = read_any_predictions(coco(tmp_path / "r.json", rows), split())
    assert read.masks["d/9"].rle == rle.encode(MASKS["d/9"])
    assert read.masks["d/9"].score == 0.8
    assert read.doubled == []


def test_photos_and_other_numbers_are_no_sentences(tmp_path: Path):
    photos = coco(tmp_path / "p.json", [result("image_id", 70 + n, e) for n, e in enumerate(IDS)])
    with pytest.raises(UserError, match=r"70, 71, 72, \.\.\., no sentences of this split \(they are photos'"):
        found(photos)
    with pytest.raises(UserError, match=r"500, no sentences of this split: number them by sentence id, or 0 to 3"):
        found(coco(tmp_path / "o.json", [result("image_id", 500, "d/9")]))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image_id": 9}, "result 1: it has no mask, only image_id"),
        ({"image_id": 9.5, "segmentation": None}, "whole number"),
        ({"segmentation": None}, "result 1 has no image_id, sent_id or expr_id"),
        ({"image_id": 9, "segmentation": [[1, 1, 5, 1, 5, 5]]}, "result 1: its mask is a list: write run lengths"),
        ({"image_id": 9, "segmentation": {"size": [6, 8], "counts": [1, 2]}}, "cover 3 pixels of 48"),
        ({"image_id": 9, "segmentation": {"size": [6, 8], "counts": "5"}}, "invalid"),
        ({"image_id": 9, "segmentation": {"counts": "5"}}, 'need "size"'),
    ],
)
def test_a_wrong_result_is_named(tmp_path: Path, row: dict[str, Any], reason: str):
    other = result("image_id", 10, "d/10")
    with pytest.raises(UserError, match=rf"r\.json.*{reason}"):
        found(coco(tmp_path / "r.json", [row, other]))


def rela(**changes: Callable[[int, str], Any]) -> list[dict[str, Any]]:
    """What ReLA's evaluator keeps of each sentence."""
    rows = [
        {
            "img_id": 70,
            "source": "refcoco",
            "sent": TEXTS[e].upper(),
            "sent_info": {"sent_id": int(e[2:]), "raw": TEXTS[e], "tokens": TEXTS[e].split()},
            "pred_nt": e == "d/11",
            "gt_nt": False,
            "pred_mask": MASKS[e].astype(np.int8),
            "gt_mask": MASKS[e].astype(np.int8),
        }
        for e in IDS
    ]
    return [row | {k: f(n, IDS[n]) for k, f in changes.items()} for n, row in enumerate(rows)]


def test_relas_predictions_are_read_with_their_flags(tmp_path: Path):
    torch.save(rela(), tmp_path / "ref_seg_predictions.pth")
    assert_read(tmp_path / "ref_seg_predictions.pth", "sentence id")
    flags = {
        e: p.no_target for e, p in read_any_predictions(tmp_path / "ref_seg_predictions.pth", split()).masks.items()
    }
    assert flags == {"d/9": False, "d/10": False, "d/11": True, "d/12": False}


def test_a_file_without_ids_has_to_be_in_the_order_of_its_words(tmp_path: Path):
    path = tmp_path / "p.pth"
    rows = rela(sent_info=lambda n, e: None)
    torch.save(sorted(rows, key=lambda row: ORDER.index(next(e for e in IDS if TEXTS[e].upper() == row["sent"]))), path)
    assert_read(path, "place")
    torch.save(rows, path)
    with pytest.raises(UserError, match=r"entry 1: answers 'THE CAT', but d/9 is 'left cat', and so on for 4 of 4"):
        found(path)
    torch.save(rows[:3], path)
    with pytest.raises(UserError, match="has 3 masks without ids, the split 4 expressions"):
        found(path)


@pytest.mark.parametrize(
    ("value", "how"),
    [
        ({e: torch.from_numpy(MASKS[e]) for e in IDS}, "expr_id"),
        ({int(e[2:]): torch.from_numpy(MASKS[e])[None].float() for e in IDS}, "sentence id"),
        ({e[2:]: rle.to_json(rle.encode(MASKS[e])) for e in IDS}, "sentence id"),
        (torch.stack([torch.from_numpy(MASKS[e]) for e in ORDER]), "place"),
        ([torch.from_numpy(MASKS[e]).to(torch.uint8) * 255 for e in ORDER], "place"),
        ({"masks": torch.stack([torch.from_numpy(MASKS[e]) for e in IDS]), "sent_ids": [int(e[2:]) for e in IDS]},
         "sentence id"),
    ],
)  # fmt: skip
def test_masks_by_id_and_stacks_of_them(tmp_path: Path, value: Any, how: str):
    torch.save(value, tmp_path / "p.pt")
    assert_read(tmp_path / "p.pt", how)


def test_arrays_of_numpy(tmp_path: Path):
    stack = np.stack([MASKS[e] for e in ORDER])
    np.savez_compressed(tmp_path / "a.npz", **{e.replace("/", "__"): MASKS[e] for e in IDS})
    assert_read(tmp_path / "a.npz", "expr_id")
    np.savez(tmp_path / "b.npz", masks=stack, expr_ids=np.array(ORDER))
    assert_read(tmp_path / "b.npz", "expr_id")
    np.savez(tmp_path / "c.npz", masks=stack[::-1], ids=np.array([int(e[2:]) for e in ORDER[::-1]]))
    assert_read(tmp_path / "c.npz", "sentence id")
    np.save(tmp_path / "d.npy", stack)
    assert_read(tmp_path / "d.npy", "place")


def test_probabilities_are_cut_where_the_protocol_says(tmp_path: Path):
    np.savez(tmp_path / "p.npz", **{"9": np.where(MASKS["d/9"], 0.4, 0.1).astype(np.float32)})
    above, below = found(tmp_path / "p.npz", threshold=0.35), found(tmp_path / "p.npz", threshold=0.5)
    assert np.array_equal(above["d/9"], MASKS["d/9"])
    assert not below["d/9"].any()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full(SIZE, -3.0), "go from -3 to -3: probabilities between 0 and 1"),
        (np.full(SIZE, np.nan), "probabilities between 0 and 1"),
        (np.arange(48).reshape(SIZE), r"it holds the values 0, 1, 2, 3, \.\.\."),
        (np.ones((2, *SIZE), bool), r"has the shape \(2, 6, 8\)"),
        (np.ones((0, 8), bool), r"has the shape \(0, 8\)"),
        (np.full(SIZE, "a"), "it holds the values a"),
    ],
)
def test_what_is_no_mask_is_named(tmp_path: Path, array: np.ndarray, reason: str):
    np.savez(tmp_path / "p.npz", **{"9": array})
    with pytest.raises(UserError, match=rf"p\.npz, entry 1: {reason}|p\.npz, entry 1: its .*{reason}"):
        found(tmp_path / "p.npz")


class Runs:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["p.pth", "p.npz", "p.npy"])
def test_nothing_in_a_file_is_run(tmp_path: Path, name: str):
    bad = np.array([Runs(tmp_path / "was run")], object)
    if name == "p.pth":
        torch.save([{"sent": "x", "pred_mask": Runs(tmp_path / "was run")}], tmp_path / name)
    elif name == "p.npz":
        np.savez(tmp_path / name, masks=bad)
    else:
        np.save(tmp_path / name, bad)
    with pytest.raises(
        UserError,
        match=rf"{name} cannot be read as (masks alone \(unsupported GLOBAL posix.mkdir|arrays \(Object arrays)",
    ):
        found(tmp_path / name)
    assert not (tmp_path / "was run").exists()


def test_an_array_of_objects_in_a_torch_file_is_not_built(tmp_path: Path):
    torch.save({"9": np.array([[{"a": 1}]], object)}, tmp_path / "p.pth")
    with pytest.raises(UserError, match=r"p\.pth cannot be read as masks alone"):
        found(tmp_path / "p.pth")


def test_files_that_are_something_else_are_one_line(tmp_path: Path):
    for name in ("p.pth", "p.npz", "p.npy"):
        for content in (b"", b"nonsense", pickle.dumps([1, 2]), b"PK\x03\x04 broken"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError, match=name):
                found(tmp_path / name)
        with pytest.raises(UserError, match="there is no predictions file"):
            found(tmp_path / ("none-" + name))
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "p.pth")
    with pytest.raises(UserError, match=r"1 of the|no mask|missing"):
        score_predictions(split(), read_any_predictions(tmp_path / "p.pth", split()), split="val")
