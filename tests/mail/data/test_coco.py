import json
import pickle
from pathlib import Path

import pytest

from mail import rle
from mail.data import coco, json_arrays
from mail.data.coco import CocoInstances
from mail.data.coco_masks import CocoMasks
from mail.errors import UserError

REAL = Path(__file__).resolve().parents[4] / "shared/data/coco_pool/instances.json"


def content() -> dict:
    square = [[2, 2, 6, 2, 6, 6, 2, 6]]
    runs = {"size": [8, 10], "counts": [10, 5, 65]}
    return {
        "info": {"description": 'nested {"a": [1, 2]} and ]'},
        "licenses": [],
        "images": [
            {"id": 7, "file_name": "caf\u00e9 \u4e2d.jpg", "height": 8, "width": 10},
            {"id": 3, "file_name": "b.jpg", "height": 5, "width": 5},
        ],
        "annotations": [
            {"id": 20, "image_id": 7, "category_id": 1, "bbox": [2, 2, 4, 4], "area": 16.0, "segmentation": square},
            {"id": 10, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "iscrowd": 1, "segmentation": runs},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "na\u00efve dog"}],
    }


def write(path: Path, data: dict | str, **options) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data, **options), encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2}, {"ensure_ascii": False, "indent": 1}])
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_reads_what_json_reads_however_it_is_chunked(tmp_path, monkeypatch, options, chunk):
    monkeypatch.setattr(json_arrays, "_CHUNK", chunk)
    index = CocoInstances(write(tmp_path / "instances.json", content(), **options))
    assert index.images[7] == coco.CocoImage(7, "caf\u00e9 \u4e2d.jpg", 8, 10)
    assert list(index.images) == [7, 3]
    assert index.categories == {1: "cat", 2: "na\u00efve dog"}
    assert [i.id for i in index.instances_of(7)] == [20, 10]
    assert index.instances_of(3) == []
    assert index.instance(20).segmentation == content()["annotations"][0]["segmentation"]
    assert index.instance(10).is_crowd
    assert index.instance(10).area == 1
    assert index.image_of(10) == 7
    assert index.image_of(11) is None


def test_polygons_and_run_lengths_become_masks(tmp_path):
    index = CocoInstances(write(tmp_path / "instances.json", content()))
    polygon, runs = (index.mask(index.instance(i)) for i in (20, 10))
    assert polygon["size"] == runs["size"] == [8, 10]
    assert rle.decode(polygon)[2:6, 2:6].all()
    assert rle.area(polygon) == 16
    assert rle.area(runs) == 5


def test_index_survives_pickling_after_use(tmp_path):
    index = CocoInstances(write(tmp_path / "instances.json", content()))
    index.instance(20)
    assert pickle.loads(pickle.dumps(index)).instance(10) == index.instance(10)


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "instances.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content()).encode())
    assert CocoInstances(path).instance(20).id == 20


def test_unknown_annotation_is_a_key_error(tmp_path):
    index = CocoInstances(write(tmp_path / "instances.json", content()))
    with pytest.raises(KeyError):
        index.instance(99)


def test_cut_off_file_is_a_clear_error_wherever_it_ends(tmp_path):
    whole = json.dumps(content())
    for end in range(0, len(whole), 7):
        with pytest.raises(UserError, match=r"instances\.json"):
            CocoInstances(write(tmp_path / "instances.json", whole[:end]))


@pytest.mark.parametrize("text", ["[]", "null", "{} x", '{"images" 3}', '{"images": [1 2]}', "[" * 100_000])
def test_other_json_is_a_clear_error(tmp_path, text):
    with pytest.raises(UserError, match=r"instances\.json"):
        CocoInstances(write(tmp_path / "instances.json", text))


def test_missing_file_and_folder_are_clear_errors(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UserError, match="there is no file"):
            CocoInstances(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][1].pop("image_id"), "is not COCO's: annotation 10: it lacks 'image_id'"),
        (lambda d: d["annotations"][1].update(category_id=None), "annotation 10: it lacks 'category_id'"),
        (lambda d: d["annotations"][1].update(iscrowd="yes"), 'annotation 10: iscrowd must be 0 or 1, not "yes"'),
        (lambda d: d["annotations"][1].update(id=10.5), "annotation 10.5: id must be a whole number"),
        (lambda d: d["annotations"][1].update(id="b3f0-1"), 'annotation "b3f0-1": id must be a whole number'),
        (lambda d: d["annotations"][1].update(area=float("nan")), "annotation 10: area must be a finite number"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, 1, float("inf")]), "annotation 10: bbox must be a finite"),
        (lambda d: d["images"][0].update(file_name=None), "image 7: it lacks 'file_name'"),
        (lambda d: d["images"][0].update(width=True), "image 7: width must be a whole number, not true"),
        (lambda d: d["categories"][0].update(name="cat \ud83d"), "category 1: name has half a character .*ud83d"),
        (lambda d: d["categories"].append({"id": 1, "name": "cow"}), "category 1: it is 'cow' here and 'cat' before"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, 3]), "entry 1 of 'annotations'"),
        (lambda d: d["annotations"].append(7), "entry 2 of 'annotations'"),
        (lambda d: d["images"][0].update(height=0), "size 0 x 10"),
        (lambda d: d["images"][1].update(id=7), "image id 7 comes twice"),
        (lambda d: d["annotations"][1].update(id=20), "annotation ids come more than once, first: 20"),
        (lambda d: d.pop("categories"), "it has no 'categories'"),
    ],
)
def test_entry_that_is_not_cocos_is_named(tmp_path, change, message):
    data = content()
    change(data)
    with pytest.raises(UserError, match=message):
        CocoInstances(write(tmp_path / "instances.json", data))


def test_numbers_as_text_are_the_same_numbers(tmp_path):
    data = content()
    plain = CocoInstances(write(tmp_path / "plain.json", data))
    for image in data["images"]:
        image |= {"id": str(image["id"]), "height": str(image["height"])}
    for annotation in data["annotations"]:
        crowd = str(annotation.get("iscrowd", 0))
        annotation |= {"id": float(annotation["id"]), "image_id": "7", "category_id": str(annotation["category_id"])}
        annotation |= {"iscrowd": crowd, "bbox": [str(v) for v in annotation["bbox"]]}
    data["annotations"][0]["segmentation"] = [["2", "2.0", "6", "2", "6", "6", "2", "6"]]
    index = CocoInstances(write(tmp_path / "text.json", data))
    assert index.images == plain.images
    assert index.is_crowd.tolist() == [False, True]
    assert index.annotation_ids.tolist() == [20, 10]
    assert (index.declared[:, :4] == plain.declared[:, :4]).all()
    assert [index.mask(i) for i in index.instances_of(7)] == [plain.mask(i) for i in plain.instances_of(7)]


def test_what_is_odd_about_a_file_is_counted(tmp_path):
    data = content()
    data["annotations"][0]["segmentation"] += [[1, 1, 2, 2], []]
    data["annotations"][1] |= {"category_id": 11, "iscrowd": None, "bbox": None, "segmentation": None}
    data["categories"] = [{"id": 1, "name": "Cup "}, {"id": 2, "name": " cup"}, {"id": 3, "name": None}]
    index = CocoInstances(write(tmp_path / "instances.json", data))
    assert rle.area(index.mask(index.instance(20))) == 16
    assert index.categories == {1: "Cup", 2: "Cup", 3: ""}
    assert [index.reasons[fault] for fault in index.faults] == [
        "",
        "its segmentation is empty, as exports of boxes alone have it",
    ]
    assert list(index.remarks()) == [
        "2 polygon parts of fewer than three points are left out",
        "1 annotations are of categories that `categories` does not list (11: 1)",
        "0 annotations are of categories without a name (3)",
    ]


def test_geometry_is_the_masks_and_what_is_declared_is_compared(tmp_path):
    data = content()
    one = data["annotations"][0]
    declared = {1: ([2, 2, 4, 4], 16.0), 2: ([20, 30, 80, 90], 16.0), 3: ([50, 2, 4, 4], 0), 4: (None, None)}
    data["images"][0] |= {"height": 100, "width": 120}
    far = [[20, 30, 80, 30, 80, 90, 20, 90]]
    data["annotations"] = [
        one | {"id": n, "bbox": box, "area": area} | ({"segmentation": far} if n == 2 else {})
        for n, (box, area) in declared.items()
    ]
    masks = CocoMasks(CocoInstances(write(tmp_path / "instances.json", data)))
    found = [masks.measure(i) for i in masks.coco.instances_of(7)]
    assert [(m.box, m.area) for m in found] == [
        ((2, 2, 4, 4), 16),
        ((20, 30, 60, 60), 3600),
        ((2, 2, 4, 4), 16),
        ((2, 2, 4, 4), 16),
    ]
    corners, boxes, areas = masks.remarks()
    assert "1 of 4 annotations that were looked at give their bbox as corners" in corners
    assert "(2)" in corners
    assert "declare another bbox" in boxes
    assert "(3)" in boxes
    assert "2 of 4" in areas
    assert "(2, 3)" in areas


@pytest.mark.skipif(not REAL.exists(), reason="needs shared/data/coco_pool beside the checkout")
def test_real_coco_gives_every_instance_a_mask_of_its_area():
    index = CocoInstances(REAL)
    assert (len(index.images), len(index), len(index.categories)) == (503, 4216, 80)
    for image_id in list(index.images)[:40]:
        for instance in index.instances_of(image_id):
            # COCO's area is the polygon's, not the raster's
            assert abs(rle.area(index.mask(instance)) - instance.area) <= 12 + 0.15 * instance.area
