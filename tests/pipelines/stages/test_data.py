"""`data show` and `data diff` as people start them: figures, a sheet, and what changed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mail.data.custom import write_store
from mail.report.overlay import TARGET
from pipelines.__main__ import main
from tests.own_formats import Item, json_lines
from tests.published import box, jpeg


def data(*arguments: object) -> int:
    return main(["data", *map(str, arguments)])


def items() -> list[Item]:
    size = (60, 80)
    return [
        Item("1", "r1", "train", "a.jpg", size, "the red cup", "cup", box(4, 4, 30, 40)),
        Item("2", "r1", "train", "a.jpg", size, "the cup", "cup", box(4, 4, 30, 40)),
        Item("3", "r3", "train", "a.jpg", size, "The cup!", "cup", box(50, 4, 20, 20)),
        Item("4", "r4", "val", "b.jpg", size, "<b>left</b> bowl", "bowl", box(2, 2, 8, 12)),
    ]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return prepared(tmp_path, "first", items())


def prepared(folder: Path, name: str, found: list[Item], second: int = 1) -> Path:
    place = folder / name
    place.mkdir()
    for seed, photo in ((0, "a.jpg"), (second, "b.jpg")):
        (place / photo).write_bytes(jpeg(60, 80, seed))
    write_store(json_lines(place, found), place, str(place / "store"), name="own")
    return place / "store"


def test_show_counts_and_draws(store, tmp_path, capsys):
    assert data("show", store, "--out", tmp_path / "sheet", "--most", 20, "--json", tmp_path / "figures.json") == 0
    out = capsys.readouterr().out
    assert "own: 2 images, 3 refs, 4 expressions" in out
    assert "vocabulary: 6 words, 3 of them used once" in out
    assert "ambiguous: 2 expressions say of one thing what another says of another thing" in out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["objects_an_image"] == {"least": 1, "median": 1.5, "mean": 1.5, "greatest": 2}
    assert found["share_of_the_image"]["least"] == 8 * 12 / (60 * 80)
    assert (found["sizes"], found["categories"]) == ({"60 x 80": 2}, {"cup": 2, "bowl": 1})
    page = (tmp_path / "sheet/contact.html").read_text()
    assert page.count("<figure>") == 3
    assert "&lt;b&gt;left&lt;/b&gt; bowl" in page
    with Image.open(tmp_path / "sheet/contact.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels == TARGET).all(axis=2).sum() > 100  # outlines of masks


def test_diff_says_what_changed(store, tmp_path, capsys):
    changed = items()[1:]
    changed[0] = dataclasses.replace(changed[0], text="the large cup")
    changed[1] = dataclasses.replace(changed[1], polygons=box(50, 4, 20, 10))
    changed[2] = dataclasses.replace(changed[2], split="test")
    changed.append(dataclasses.replace(changed[2], expr_id="5"))
    second = prepared(tmp_path, "second", changed, second=2)
    assert data("diff", store, second, "--json", tmp_path / "diff.json") == 0
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "images: 0 added, 0 removed, 1 changed",
        "  ~ own/b.jpg",
        "expressions: 1 added, 1 removed, 3 changed",
        "  + own/5",
        "  - own/1",
        "  ~ own/2, own/3, own/4",
        "  1 texts changed: own/2: 'the cup' -> 'the large cup'",
        "  1 targets changed: own/3 (IoU 0.500)",
        "  1 splits changed (val -> test 1): own/4",
    ]
    assert json.loads((tmp_path / "diff.json").read_text())["splits"] == {"own/4": ["val", "test"]}
    assert data("diff", store, store) == 0
    assert capsys.readouterr().out.endswith("hold the same\n")
