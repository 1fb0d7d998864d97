"""The formats of own data: one store whichever a person has, and what is told about files as tools write them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mail import rle
from mail.data import files
from mail.data.coco import CocoInstances
from mail.data.custom import check, read_expressions, write_store
from mail.data.custom.brush import decode_brush, encode_brush
from mail.data.refer import find_layout, read_refs
from mail.errors import UserError
from tests.own_formats import WRITERS, Item, brush, coco, label_studio, with_instances, write_lines
from tests.published import HEIGHT, WIDTH, box, jpeg
from tests.s3 import BUCKET, s3_server

MINI = Path(__file__).resolve().parents[4] / "shared/data/refcoco_mini"


def small(folder: Path) -> tuple[list[Item], Path]:
    """Six expressions on three photos, one in two parts."""
    photos = folder / "photos"
    photos.mkdir()
    items = []
    for number, split in enumerate(("train", "val", "test")):
        name = f"{number}.jpg"
        (photos / name).write_bytes(jpeg(seed=number))
        for place in range(2):
            polygons = box(3 + 14 * place, 2 + number, 6, 5) + (box(20, 20, 5, 4) if place else [])
            text = f"the {'left “cup”' if place == 0 else 'right bowl; one, two'} of {number}"
            names = (f"{number}{place}", f"r{number}{place}", split, name)
            items.append(Item(*names, (HEIGHT, WIDTH), text, "cup" if place == 0 else "bowl", polygons))
    return items, photos


def real() -> tuple[list[Item], Path]:
    """RefCOCO's own sentences on the nine photos."""
    layout = find_layout(MINI, "refcoco", "unc")
    instances = CocoInstances(layout.instances)
    items = []
    for ref in read_refs(layout.refs):
        image, found = instances.images[ref.image_id], instances.instance(ref.ann_ids[0])
        for sent_id, text in ref.sentences:
            split = {"testA": "test", "testB": "train"}.get(ref.split, ref.split)  # as Roboflow has them
            category = instances.name_of(found.category_id)
            names = (str(sent_id), str(ref.ref_id), split, image.file_name)
            items.append(Item(*names, (image.height, image.width), text, category, found.segmentation))
    return items, layout.images


def digests(folder: Path, items: list[Item], photos: Path) -> dict[str, str]:
    found = {}
    for name, writer in WRITERS.items():
        (folder / name).mkdir()
        place = writer(folder / name, items)
        found[name] = write_store(place, photos, str(folder / name / "store"), name="own")[0].digest
    (folder / "ids").mkdir()
    place, instances = with_instances(folder / "ids", items)
    out = str(folder / "ids/store")
    found["ids"] = write_store(place, photos, out, name="own", instances=str(instances))[0].digest
    return found


def test_every_format_gives_the_same_store(tmp_path):
    found = digests(tmp_path, *small(tmp_path))
    assert len(found) == 14
    assert set(found.values()) == {found["json_lines"]}, found


@pytest.mark.cluster
def test_photos_and_expressions_in_an_object_store_give_the_same_store(tmp_path):
    items, photos = small(tmp_path)
    (tmp_path / "files").mkdir()
    path = WRITERS["tsv_with_masks"](tmp_path / "files", items)
    here, _ = write_store(path, photos, str(tmp_path / "store"), name="own")
    with s3_server():
        for folder in ("photos", "files"):
            files.copy_folder(tmp_path / folder, *files.resolve(f"s3://{BUCKET}/{folder}"))
        there, _ = write_store(f"s3://{BUCKET}/files/a.tsv", f"s3://{BUCKET}/photos", str(tmp_path / "s3"), name="own")
    assert there.digest == here.digest
    assert there.manifest["sources"] == here.manifest["sources"]


@pytest.mark.skipif(not MINI.exists(), reason="needs shared/data/refcoco_mini beside the checkout")
def test_real_sentences_give_the_same_store_in_every_format(tmp_path):
    items, photos = real()
    assert len(items) == 71
    found = digests(tmp_path, items, photos)
    assert set(found.values()) == {found["json_lines"]}, found


def test_a_brush_mask_of_label_studios_own_sdk_is_read():
    # label-studio-sdk 2.1.2: converter.brush.mask2rle of this mask
    packed = [0, 0, 0, 252, 57, 27, 252, 127, 249, 60, 3, 9, 255, 223, 0, 194, 127, 247, 192, 48, 159, 254, 71, 0, 143]
    packed.append(252)
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:8] = mask[0, 0] = mask[6, 8] = True
    np.testing.assert_array_equal(decode_brush(packed, 7, 9), mask)
    assert brush(mask)[:25] == packed[:25]
    for wrong, message in (
        (packed[:12], "cut off"),
        ([*packed[:3], 251, *packed[4:]], "251 values"),
        (["a"], "no list of bytes"),
        (None, "no list of bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_brush(wrong, 7, 9)


def test_a_brush_mask_is_written_as_label_studios_own_sdk_writes_it():
    rows, columns = np.mgrid[:180, :200]
    masks = {
        "disc of radius 40 around (100, 90)": (columns - 100) ** 2 + (rows - 90) ** 2 <= 1600,
        "empty": np.zeros((180, 200), bool),
        "full": np.ones((180, 200), bool),
        "corners": np.isin(rows, (0, 179)) & np.isin(columns, (0, 199)),
    }
    for width in range(1, 9):  # bits are left over at the end, or none
        masks[f"row of {width}"] = np.zeros((3, width + 2), bool)
        masks[f"row of {width}"][1, 1:-1] = True
    # label-studio-sdk 2.1.2: converter.brush.mask2rle of each
    recorded = json.loads(Path(__file__).with_name("brushes_of_label_studio_sdk.json").read_text())
    assert {one["mask"]: one["rle"] for one in recorded} == {name: encode_brush(mask) for name, mask in masks.items()}
    for mask in masks.values():
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), *mask.shape), mask)


def test_sentences_of_label_studios_regions_and_tasks(tmp_path):
    items, _photos = small(tmp_path)
    path = label_studio(tmp_path, items[:5])
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["data"] = {"image": task["data"]["image"], "text": task["data"]["text"]}
    polygon = {"points": [[25, 20], [75, 20], [75, 80], [25, 80]], "closed": True, "polygonlabels": ["cup"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    tasks[0]["annotations"][0]["result"] += [
        {"type": "textarea", "id": "r1", "value": {"text": ["the first", "number one"]}, **size},
        {"type": "polygonlabels", "id": "p", "value": polygon, **size},
    ]
    tasks[1]["annotations"][0]["result"] = []
    tasks[2]["annotations"] = []
    tasks[3]["annotations"] *= 2
    tasks[4]["annotations"][0]["result"][0]["value"] = {"x": 1, "y": 1, "width": 5, "height": 5}
    path.write_text(json.dumps(tasks))
    own = read_expressions(path, strict=False)
    assert [(d.texts, d.no_target, len(d.parts)) for d in own.described] == [
        ([(None, "the first"), (None, "number one")], False, 1),
        ([(None, items[1].text)], True, 0),
    ]
    assert own.remarks == [
        "left out: 1 objects that nothing is said about",
        "left out: 1 tasks that are not annotated",
    ]
    assert own.reading.problems.names == {
        "tasks cannot be used": [
            "task 4: it has 2 annotations: mark one of them as ground truth",
            "task 5: its region r5 is a brushlabels: a target is painted, or a polygon",
        ]
    }


def test_a_percent_polygon_lies_where_it_was_drawn(tmp_path):
    items, photos = small(tmp_path)
    path = label_studio(tmp_path, items[:1])
    tasks = json.loads(path.read_text())
    region = tasks[0]["annotations"][0]["result"][0]
    region |= {"type": "polygon", "value": {"points": [[25, 20], [75, 20], [75, 80], [25, 80]]}}
    path.write_text(json.dumps(tasks))
    store, _ = write_store(path, photos, str(tmp_path / "store"), name="own")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[6:24, 10:30] = True
    np.testing.assert_array_equal(rle.decode(store.expressions()["target"][0].as_py()), expected)


def bare(photos: int = 10) -> list[dict]:
    """Two sentences a photo, without ids and splits."""
    return [
        {"image": f"{number}.jpg", "text": f"thing {place}", "polygons": box(1 + place, 1, 4, 5)}
        for number in range(photos)
        for place in range(2)
    ]


def photos_of(folder: Path, count: int = 10) -> Path:
    folder.mkdir()
    for number in range(count):
        # the last shows what the first one shows, in another file
        kind = {"seed": number} if number < count - 1 else {"seed": 0, "comment": b"a copy"}
        (folder / f"{number}.jpg").write_bytes(jpeg(**kind))
    return folder


def test_ids_and_splits_are_made_whatever_the_order_of_the_lines(tmp_path):
    photos, rows = photos_of(tmp_path / "photos"), bare()
    rows.append(rows[0] | {"polygons": box(9, 9, 3, 3)})  # the same words about another thing
    forwards, findings = write_store(write_lines(tmp_path / "a.jsonl", rows), photos, str(tmp_path / "a"), name="own")
    turned = [*reversed(rows[1:-1]), rows[0], rows[-1]]
    backwards, _ = write_store(write_lines(tmp_path / "b.jsonl", turned), photos, str(tmp_path / "b"), name="own")
    assert forwards.digest == backwards.digest
    assert findings.remarks == ["splits drawn for 9 photos of different content (seed 0): train 7, val 1, test 1"]
    splits: dict[str, set[str]] = {}
    for row in forwards.expressions(columns=["image_id", "split"]).to_pylist():
        splits.setdefault(row["image_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert splits["own/0.jpg"] == splits["own/9.jpg"]
    seeded, _ = write_store(tmp_path / "a.jsonl", photos, str(tmp_path / "c"), name="own", seed=1)
    assert seeded.digest != forwards.digest


def test_a_split_that_is_given_wins_for_the_photo_and_its_copies(tmp_path):
    photos, rows = photos_of(tmp_path / "photos"), bare()
    rows[0]["split"] = "val"
    path = write_lines(tmp_path / "a.jsonl", rows)
    store, findings = write_store(path, photos, str(tmp_path / "s"), name="own", shares={"train": 1.0})
    found = {row["image_id"] for row in store.expressions(["val"]).to_pylist()}
    assert found == {"own/0.jpg", "own/9.jpg"}
    assert "2 photos have sentences without a split, which follow the split that is given" in findings.remarks[1]


def test_check_finds_everything_at_once(tmp_path):
    photos, rows = photos_of(tmp_path / "photos"), bare()
    rows[0]["text"] = ""
    rows[2]["image"] = rows[3]["image"] = "absent.jpg"
    rows[4]["polygons"] = [[1, 2, 3]]
    rows[6] = {"image": "3.jpg", "text": "thing", "polygon": box(1, 1, 4, 4)}
    rows[8] = {"image": "4.jpg", "text": "thing", "mask": "nowhere.png"}
    rows[9] = {"image": "4.jpg", "text": "a camel"}
    path = write_lines(tmp_path / "a.jsonl", rows)
    found = check(path, photos, name="own")
    made = hashlib.sha256(b"2.jpg\0thing 0").hexdigest()[:16]
    assert found.problems.most_frequent() == [
        (
            "lines cannot be used",
            [
                'line 1: text must be text, not ""',
                'line 7: it has no target; did you mean polygons by "polygon"?',
                f"line 9: there is no mask nowhere.png in {tmp_path}",
            ],
        ),
        (f"images are missing in {photos}", ["absent.jpg (line 3)", "absent.jpg (line 4)"]),
        ("referents have an unusable mask", [f"own/{made}: a polygon has fewer than 3 points (line 5)"]),
    ]
    assert found.findings.expressions == 14


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"image,text,polygons\n0.jpg,cup,[[1\n", "line 2: polygons: this is not JSON"),
        ("a.csv", b'image,text\n0.jpg,"cup\n1.jpg,mug\n', "line 2: this is not CSV .*quotation mark"),
        ("a.csv", b"image,text\n0.jpg,caf\xe9\n", "line 2: byte 0xe9"),
        ("a.csv", b"image,text,polygons\r0.jpg,cup,[[1\r", "line 2: polygons: this is not JSON"),
        ("a.csv", b"image,text,text\n", "columns have the same name: text"),
        ("a.csv", b"photo,words\n0.jpg,cup\n", "in no format that is known"),
        ("a.json", b'[{"image": "0.jpg", ', "a.json cannot be read: this is not JSON"),
        ("a.json", b'[{"image": "0.jpg", "text": "cup", "box": [1, 1, 2, 2]}]', "entry 0: exactly one of"),
        ("a.json", b'[{"image": "0.jpg", "text": "cup", "ann_ids": 1}]', "name it with --instances"),
        ("a.json", b'[{"image": "0.jpg", "text": "c", "mask": "../0.png"}]', "which leads out of the folder"),
        ("a.json", b'{"shapes": [],\n "imagePath": "a.jpg",\n', r"1 files cannot be read \(a.json: this is not JSON"),
        (
            "a.json",
            b'{"shapes": [], "imagePath": "a", "imageHeight": 100000, "imageWidth": 9999}',
            "no size of an image",
        ),
        ("a.json", b'{"shapes": 3, "imagePath": "a"}', "it has no list of shapes"),
        ("a.json", json.dumps(coco([], lambda i: {})).encode(), "has no expressions"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_expressions(tmp_path / name)
