"""PhraseCut in the form of its published files: polygons of several instances a phrase, photos that are COCO's too."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mail import rle
from mail.data.sets import DATA_SETS
from mail.data.sets.phrasecut import drawn
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import overlaps
from pipelines.__main__ import main
from tests.published import HEIGHT, WIDTH, Published, jpeg

SPLITS = ("train", "val", "test", "miniv")


def triangle(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y + 0.5], [x + side / 2, y + side]]


class PhraseCut:
    """Two photos a split, the first one COCO's; two phrases each, the second for two instances, one of two polygons."""

    def __init__(self, root: Path):
        self.root = root
        self.image_data: list[dict] = []
        self.tasks: dict[str, list[dict]] = {split: [] for split in SPLITS}
        for place, split in enumerate(SPLITS):
            for number in (0, 1):
                image = 2328797 + 10 * place + number
                self.image_data.append(
                    {
                        "image_id": image,
                        "coco_id": None if number else place + 1,
                        "flickr_id": None,
                        "height": HEIGHT,
                        "width": WIDTH,
                        "split": split,
                        "url": f"https://example.org/VG_100K_2/{image}.jpg",
                    }
                )
                one = [[triangle(2.7 + place, 3, 9)]]
                several = [[triangle(1, 1, 6), triangle(3, 3, 8.4)], [triangle(20, 10.2, 15)]]
                for polygons in (one, several):
                    ann_ids = [image * 10 + i for i in range(len(polygons))]
                    self.tasks[split].append(
                        {
                            "task_id": "__".join([str(image), "_".join(map(str, ann_ids))]),
                            "image_id": image,
                            "ann_ids": ann_ids,
                            "instance_boxes": [[1, 1, 5, 5]] * len(polygons),
                            "Polygons": polygons,
                            "phrase": f"{len(polygons)} black birds",
                            "phrase_structure": {"name": "bird", "attributes": ["black"], "type": "attribute"},
                        }
                    )

    def write(self) -> "PhraseCut":
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        for entry in self.image_data:
            (self.root / f"images/{entry['image_id']}.jpg").write_bytes(jpeg(seed=entry["image_id"]))
        (self.root / "image_data_split.json").write_text(json.dumps(self.image_data))
        for split, tasks in self.tasks.items():
            (self.root / f"refer_{split}.json").write_text(json.dumps(tasks))
        return self


def prepare(root: Path, *more: str) -> int:
    return main(["prepare", "phrasecut", "--root", str(root), "--out", str(root / "store"), *more])


def theirs(task: dict) -> np.ndarray:
    """As the published evaluation makes the mask: every polygon is drawn on a picture of its own, and any counts."""
    summed = np.zeros((HEIGHT, WIDTH))
    for polygon in (polygon for instance in task["Polygons"] for polygon in instance):
        picture = Image.new("L", (WIDTH, HEIGHT), 0)
        ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        summed += np.array(picture)
    return summed > 0


def test_records_are_what_was_published(tmp_path, capsys):
    data = PhraseCut(tmp_path).write()
    assert prepare(tmp_path) == 0
    store = DataStore(tmp_path / "store")
    assert store.name == "phrasecut"
    assert store.splits == {s: {"images": 2, "refs": 4, "expressions": 4} for s in sorted(SPLITS)}
    rows = {row["expr_id"]: row for row in store.expressions().to_pylist()}
    for split, tasks in data.tasks.items():
        for task in tasks:
            np.testing.assert_array_equal(rle.decode(rows[f"phrasecut/{task['task_id']}"]["target"]), theirs(task))
            assert rows[f"phrasecut/{task['task_id']}"]["split"] == split
    row = rows["phrasecut/2328807__23288070_23288071"]
    row.pop("target")
    assert row == {
        "expr_id": "phrasecut/2328807__23288070_23288071",
        "ref_id": "phrasecut/2328807__23288070_23288071",
        "image_id": "coco/2",
        "split": "val",
        "text": "2 black birds",
        "no_target": False,
        "ann_ids": [23288070, 23288071],
        "category": "bird",
    }
    out, err = capsys.readouterr()
    assert "8 images, 16 refs, 16 expressions" in out
    assert "4 of 8 photos are COCO's, and have their ids there" in err
    assert [s["path"] for s in store.manifest["sources"]][-1] == "phrasecut/image_data_split.json"


def test_photos_that_are_cocos_are_known_to_the_leak_firewall(tmp_path):
    PhraseCut(tmp_path / "phrasecut").write()
    Published(tmp_path / "refer", splits=("testA", "train", "train", "val")).write()
    assert prepare(tmp_path / "phrasecut") == 0
    arguments = ["--root", str(tmp_path / "refer"), "--out", str(tmp_path / "refcoco")]
    assert main(["prepare", "refcoco", *arguments]) == 0
    trained = DataStore(tmp_path / "phrasecut/store").image_keys(["train"])["train"]
    assert overlaps(trained, DataStore(tmp_path / "refcoco")) == {"testA": 1}
    assert set(trained["image_id"].to_pylist()) == {"coco/1", "visual-genome/2328798"}


@pytest.mark.parametrize("folder", ["VGPhraseCut_v0", "phrasecut"])
@pytest.mark.parametrize("image_data", ["image_data_split3000.json", "image_data.json"])
def test_files_are_found_under_their_other_names(tmp_path, folder, image_data):
    PhraseCut(tmp_path / folder).write()
    (tmp_path / folder / "image_data_split.json").rename(tmp_path / folder / image_data)
    photos = sorted((tmp_path / folder / "images").iterdir())
    for number, photo in enumerate(photos):  # as the two archives of Visual Genome have them
        place = tmp_path / "photos" / ("VG_100K" if number % 2 else "VG_100K_2")
        place.mkdir(parents=True, exist_ok=True)
        photo.rename(place / photo.name)
    assert prepare(tmp_path, "--images", str(tmp_path / "photos")) == 0


def test_one_split_alone_is_read_and_the_absence_of_the_others_said(tmp_path, capsys):
    data = PhraseCut(tmp_path).write()
    for split in ("train", "val", "test"):
        (tmp_path / f"refer_{split}.json").unlink()
    assert prepare(tmp_path) == 0
    assert "train is absent (310816 refs published)" in capsys.readouterr().err
    assert list(DataStore(tmp_path / "store").splits) == ["miniv"]
    assert len(data.tasks["miniv"]) == 4


def change(key: str, value: Any):
    def damage(data: PhraseCut) -> None:
        data.tasks["train"][0][key] = value

    return damage


def forget_a_photo(data: PhraseCut) -> None:
    del data.image_data[1]


def give_two_photos_one_coco_id(data: PhraseCut) -> None:
    data.image_data[1]["coco_id"] = 1


@pytest.mark.parametrize(
    ("damage", "message", "left"),
    [
        (change("Polygons", None), "1 referents have an unusable mask .*: Polygons must be a list of instances", 15),
        (change("Polygons", []), "it has no polygon", 15),
        (change("Polygons", [[[[1, "x"], [2, 2]]]]), "y must be a finite number", 15),
        (change("Polygons", [[[[1, 2, 3], [2, 2]]]]), "too many values|Polygons must be", 15),
        (change("Polygons", [[[[1, 1], [1e9, 1], [1, 5]]]]), "a polygon lies far outside the image", 15),
        (change("phrase", "  "), r"1 expressions are empty \(phrasecut/2328797__23287970\)", 15),
        (forget_a_photo, r"1 photos are not in image_data_split\.json \(2328798\)", 14),
        (give_two_photos_one_coco_id, r"1 photos have the coco_id of another \(2328798: 1\)", 14),
    ],
)
def test_damage_is_named_or_left_out_and_counted_on_demand(tmp_path, capsys, damage, message, left):
    data = PhraseCut(tmp_path)
    damage(data)
    data.write()
    assert prepare(tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert prepare(tmp_path, "--skip-bad") == 0
    assert sum(s["expressions"] for s in DataStore(tmp_path / "store").splits.values()) == left
    assert "left out: 1 " in capsys.readouterr().err


def test_missing_photos_are_one_line(tmp_path, capsys):
    PhraseCut(tmp_path).write()
    (tmp_path / "images/2328797.jpg").unlink()
    assert prepare(tmp_path) == 2
    assert f"1 images are missing in {tmp_path}/images (2328797.jpg)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not PhraseCut's: it is an object"),
        ('{"a": []}', "it is an object, not a list of tasks"),
        ("[1]", "task 0: it is no object but 1"),
        ('[{"task_id": "1"}]', "task 0: it lacks 'image_id'"),
        ('[{"task_id": "1", "image_id": 2.5}]', "task 0: image_id must be a whole number"),
        ('[{"task_id": "1"', "ends at byte|cut off|Expecting"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path, content, message):
    PhraseCut(tmp_path).write()
    (tmp_path / "refer_val.json").write_text(content)
    with pytest.raises(UserError, match=message):
        DATA_SETS["phrasecut"].open(tmp_path, "")


def test_a_folder_without_its_files_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no refer_train\.json, refer_val\.json, .* in "):
        DATA_SETS["phrasecut"].open(tmp_path, "")
    PhraseCut(tmp_path).write()
    (tmp_path / "image_data_split.json").unlink()
    with pytest.raises(UserError, match=r"there is no image_data_split\.json or .*: it says which photos are COCO's"):
        DATA_SETS["phrasecut"].open(tmp_path, "")


def test_a_line_and_a_point_are_drawn_as_theirs_are(tmp_path):
    task = {"Polygons": [[[[2, 2], [9, 7]], [[5, 5]]]]}
    np.testing.assert_array_equal(drawn(task["Polygons"], HEIGHT, WIDTH), theirs({"Polygons": [[[[2, 2], [9, 7]]]]}))
