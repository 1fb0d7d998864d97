"""All real expressions of RefCOCO's evaluation splits, on photos made for them, with the counts that were published."""

import json
import pickle
from collections import defaultdict
from pathlib import Path

import pytest

from mail.data.sets import DATA_SETS
from tests.published import box, jpeg

TEXTS = Path(__file__).resolve().parents[5] / "shared/data/refcoco_text"
SPLITS = ("val", "testA", "testB")


@pytest.mark.skipif(not TEXTS.exists(), reason="needs shared/data/refcoco_text beside the checkout")
def test_real_expressions_go_through_with_the_published_counts(tmp_path: Path) -> None:
    lines = {split: [json.loads(line) for line in (TEXTS / f"{split}.jsonl").open()] for split in SPLITS}
    refs: dict[int, dict] = {}
    images: dict[int, dict] = {}
    annotations: dict[int, dict] = {}
    spoken = defaultdict(list)
    for split, line in [(name, line) for name in SPLITS for line in lines[name]]:
        image, ref = line["image_id"], line["ref_id"]
        name = f"COCO_train2014_{image:012d}.jpg"
        images[image] = {"id": image, "file_name": name, "height": 8, "width": 12}
        annotations[ref] = {"id": ref, "image_id": image, "category_id": 1, "segmentation": box(1, 1, 5, 5)}
        spoken[ref].append({"sent_id": line["sent_id"], "sent": line["text"]})
        refs[ref] = {"ref_id": ref, "ann_id": ref, "image_id": image, "split": split, "sentences": spoken[ref]}
    photo, photos = jpeg(8, 12), tmp_path / "images/train2014"
    photos.mkdir(parents=True)
    for entry in images.values():
        (photos / entry["file_name"]).write_bytes(photo)
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps([*refs.values()], protocol=0))
    instances = {"images": [*images.values()], "annotations": [*annotations.values()], "categories": [{"id": 1}]}
    (tmp_path / "refcoco/instances.json").write_text(json.dumps(instances))

    found = DATA_SETS["refcoco"].open(tmp_path, "unc")
    assert DATA_SETS["refcoco"].differences("unc", found.count()) == ["train is absent (42404 refs published)"]
    store, _ = found.write_store(str(tmp_path / "store"))
    assert store.splits == found.count()
    texts = {row["expr_id"]: row["text"] for row in store.expressions(columns=["expr_id", "text"]).to_pylist()}
    assert texts == {f"refcoco-unc/{line['sent_id']}": line["text"] for split in SPLITS for line in lines[split]}
