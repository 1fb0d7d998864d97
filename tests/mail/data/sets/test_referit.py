"""ReferItGame in the form of its published files: ids that are texts, lists of run lengths, photos in folders."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.sets import DATA_SETS
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.__main__ import main
from tests.published import jpeg

HEIGHT, WIDTH = 36, 48
SPLITS = {"berkeley": ("train", "val", "test"), "unc": ("train", "val", "testA", "testB", "testC", "testAB")}


def region(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.7


def published(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


class ReferIt:
    """A photo a split with two regions each, the second of two parts; a ref with two sentences on each region."""

    def __init__(self, root: Path, split_by: str = "berkeley"):
        self.root, self.split_by = root, split_by
        self.refs: list[dict] = []
        self.instances: dict = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "sky-blue"}]}
        for number, split in enumerate(SPLITS[split_by]):
            image = 8756 + number
            name = f"0{number}/images/{image}.jpg"
            self.instances["images"].append({"id": image, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for place in (1, 2):
                parts = [published(region(10 * number + 100 * place + part)) for part in range(place)]
                self.instances["annotations"].append(
                    {
                        "id": f"{image}_{place}",
                        "image_id": image,
                        "category_id": 7,
                        "bbox": [0, 0, WIDTH, HEIGHT],
                        "area": 500,
                        "segmentation": parts,
                        "mask_name": f"0{number}/segmentation_masks/{image}_{place}.mat",
                    }
                )
                sentences = [
                    {"sent_id": 100 * number + 10 * place + s, "sent": text, "raw": text, "tokens": text.split()}
                    for s, text in enumerate(("the sky", "blue above"))
                ]
                self.refs.append(
                    {
                        "ref_id": 10 * number + place,
                        "ann_id": f"{image}_{place}",
                        "image_id": image,
                        "category_id": 7,
                        "split": split,
                        "sentences": sentences,
                        "sent_ids": [s["sent_id"] for s in sentences],
                    }
                )

    def write(self) -> "ReferIt":
        (self.root / "refclef").mkdir(parents=True)
        for image in self.instances["images"]:
            path = self.root / "images/saiapr_tc-12" / image["file_name"]
            path.parent.mkdir(parents=True)
            path.write_bytes(jpeg(HEIGHT, WIDTH, image["id"]))
        (self.root / f"refclef/refs({self.split_by}).p").write_bytes(pickle.dumps(self.refs, protocol=0))
        (self.root / "refclef/instances.json").write_text(json.dumps(self.instances))
        return self


def prepare(root: Path, split_by: str = "berkeley", *more: str) -> int:
    where = ["--root", str(root), "--out", str(root / "store")]
    return main(["prepare", "referit", "--split-by", split_by, *where, *more])


@pytest.mark.parametrize("split_by", SPLITS)
def test_records_are_what_was_published(tmp_path, split_by):
    ReferIt(tmp_path, split_by).write()
    assert prepare(tmp_path, split_by) == 0
    store = DataStore(tmp_path / "store")
    assert store.name == f"referit-{split_by}"
    assert store.splits == {s: {"images": 1, "refs": 2, "expressions": 4} for s in sorted(SPLITS[split_by])}
    rows = {row["expr_id"]: row for row in store.expressions(["val"]).to_pylist()}
    row = rows[f"referit-{split_by}/121"]
    np.testing.assert_array_equal(rle.decode(row.pop("target")), region(210) | region(211))
    assert row == {
        "expr_id": f"referit-{split_by}/121",
        "ref_id": f"referit-{split_by}/12",
        "image_id": "saiapr/8757",
        "split": "val",
        "text": "blue above",
        "no_target": False,
        "ann_ids": [8757002],
        "category": "sky-blue",
    }


def test_masks_are_those_of_the_published_reader(tmp_path):
    data = ReferIt(tmp_path).write()
    assert prepare(tmp_path) == 0
    targets = {row["ann_ids"][0]: row["target"] for row in DataStore(tmp_path / "store").expressions().to_pylist()}
    for annotation in data.instances["annotations"]:
        image, place = annotation["id"].split("_")
        theirs = np.sum(coco_mask.decode(annotation["segmentation"]), axis=2) > 0
        np.testing.assert_array_equal(rle.decode(targets[int(image) * 1000 + int(place)]), theirs)


def test_a_split_of_two_test_sets_is_said(tmp_path, capsys):
    ReferIt(tmp_path, "unc").write()
    assert prepare(tmp_path, "unc") == 0
    err = capsys.readouterr().err
    assert "2 refs are of testAB, which the REFER API counts with testA and with testB" in err
    assert "testAB is not a published split" not in err


@pytest.mark.parametrize("given", [87562, "8756", "8756_2_1", "a_b", "8756_1000", None])
def test_an_id_that_is_no_region_is_named(tmp_path, given):
    data = ReferIt(tmp_path)
    data.refs[1]["ann_id"] = given
    data.write()
    wanted = "it lacks 'ann_id'" if given is None else "ann_id must be the number of a photo and of a region in it"
    with pytest.raises(UserError, match=wanted):
        DATA_SETS["referit"].open(tmp_path, "berkeley")


def test_run_lengths_of_another_size_are_named(tmp_path, capsys):
    data = ReferIt(tmp_path)
    data.instances["annotations"][0]["segmentation"][0]["size"] = [WIDTH, HEIGHT]
    data.write()
    assert prepare(tmp_path) == 2
    assert "1 referents have an unusable mask (referit-berkeley/1: its run lengths are for" in capsys.readouterr().err
    assert prepare(tmp_path, "berkeley", "--skip-bad") == 0


def test_counts_that_differ_are_said_and_strict_refuses(tmp_path, capsys):
    ReferIt(tmp_path).write()
    assert prepare(tmp_path, "berkeley", "--strict") == 2
    said = capsys.readouterr().err
    assert (
        "is not what was published: train has 4 of 54127 expressions; val has 4 of 5842 expressions, 1 of 1000" in said
    )
    assert not (tmp_path / "store").exists()
