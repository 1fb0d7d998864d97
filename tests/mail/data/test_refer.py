import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mail import rle
from mail.data.images import decode_image, turn_upright
from mail.data.ingest import Findings
from mail.data.refer import count_splits, find_layout, read_refs, shared_images, write_store
from mail.data.store import DataStore
from mail.errors import UserError
from tests.published import HEIGHT, WIDTH, Published, box, jpeg

MINI = Path(__file__).resolve().parents[4] / "shared/data/refcoco_mini"
needs_mini = pytest.mark.skipif(not MINI.exists(), reason="needs shared/data/refcoco_mini beside the checkout")


def prepare(data: Published, out: str = "store", **options) -> tuple[DataStore, Findings]:
    data.write()
    layout = find_layout(data.root, data.dataset, data.split_by)
    return write_store(layout, read_refs(layout.refs), str(data.root / out), **options)


def target(store: DataStore, expr_id: str) -> np.ndarray:
    rows = {row["expr_id"]: row for row in store.expressions().to_pylist()}
    return rle.decode(rows[expr_id]["target"])


def photo(store: DataStore, image_id: str) -> dict:
    return next(row for batch in store.images() for row in batch.to_pylist() if row["image_id"] == image_id)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_records_are_what_was_published(tmp_path, protocol):
    data = Published(tmp_path, protocol=protocol)
    store, findings = prepare(data)
    assert store.name == "refcoco-unc"
    assert store.splits == {s: {"images": 1, "refs": 1, "expressions": 2} for s in data.splits}
    row = store.expressions(["val"]).to_pylist()[0]
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[2:7, 3:9] = True
    np.testing.assert_array_equal(rle.decode(row.pop("target")), wanted)
    assert row == {
        "expr_id": "refcoco-unc/200",
        "ref_id": "refcoco-unc/1002",
        "image_id": "coco/2",
        "split": "val",
        "text": "the left cat",
        "no_target": False,
        "ann_ids": [20],
        "category": "cat",
    }
    image = photo(store, "coco/2")
    assert image["image"] == data.photos["COCO_train2014_000000000002.jpg"]
    assert (image["height"], image["width"]) == (HEIGHT, WIDTH)
    assert list(findings.lines()) == []


def test_same_input_gives_the_same_digest_wherever_it_lies(tmp_path):
    first, _ = prepare(Published(tmp_path / "one"))
    second, _ = prepare(Published(tmp_path / "two", protocol=0))
    assert first.digest == second.digest
    assert [s["path"] for s in first.manifest["sources"]] == ["refcoco/refs(unc).p", "refcoco/instances.json"]


def test_target_is_the_union_of_overlapping_polygons(tmp_path):
    data = Published(tmp_path)
    data.instances["annotations"][0]["segmentation"] = box(0, 0, 10, 10) + box(5, 5, 10, 10)
    store, _ = prepare(data)
    assert target(store, "refcoco-unc/100").sum() == 100 + 100 - 25


def test_crowd_run_lengths_are_read(tmp_path):
    data = Published(tmp_path)
    counts = [HEIGHT, HEIGHT, HEIGHT * WIDTH - 2 * HEIGHT]
    data.instances["annotations"][0] |= {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "iscrowd": 1}
    store, _ = prepare(data)
    assert target(store, "refcoco-unc/100")[:, 1].all()


def test_several_and_no_targets_of_grefcoco(tmp_path):
    data = Published(tmp_path, dataset="grefcoco")
    data.refs[0] |= {"ann_id": [10, 11], "category_id": [1, 2]}
    data.refs[1] |= {"ann_id": [-1], "category_id": [-1], "no_target": True}
    data.refs[2] |= {"ann_id": [30], "no_target": False}
    store, findings = prepare(data)
    rows = {row["expr_id"]: row for row in store.expressions().to_pylist()}
    both, none, one = (rows[f"grefcoco-unc/{n}00"] for n in (1, 2, 3))
    assert (rle.area(both["target"]), both["ann_ids"], both["category"]) == (60, [10, 11], "cat, dog")
    assert (rle.area(none["target"]), none["ann_ids"], none["no_target"]) == (0, [], True)
    assert none["target"]["size"] == [HEIGHT, WIDTH]
    assert (rle.area(one["target"]), one["no_target"]) == (30, False)
    assert findings.empty_targets == []


def test_photos_are_found_where_the_refer_tool_has_them(tmp_path):
    data = Published(tmp_path).write()
    elsewhere = tmp_path / "images/mscoco/images/train2014"
    elsewhere.parent.mkdir(parents=True)
    data.images_folder.rename(elsewhere)
    assert find_layout(tmp_path, "refcoco", "unc").images == elsewhere
    assert find_layout(tmp_path, "refcoco", "unc", elsewhere).images == elsewhere


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "refcoco", "unc"), "there is no folder .*absent: --root is the folder"),
        (("", "refcoco+", "unc"), r"there is no folder .*refcoco\+: .* has images, refcoco"),
        (("", "refcoco", "google"), r"there is no file .*refs\(google\)\.p: .* has refs\(unc\)\.p"),
        (("", "refcoco", "unc", "/absent/photos"), "there is no folder /absent/photos.*--images"),
    ],
)
def test_missing_files_are_named_with_what_is_there(tmp_path, arguments, message):
    Published(tmp_path).write()
    with pytest.raises(UserError, match=message):
        find_layout(tmp_path / arguments[0], *arguments[1:])


def test_missing_instances_file_is_named(tmp_path):
    Published(tmp_path).write()
    (tmp_path / "refcoco/instances.json").unlink()
    with pytest.raises(UserError, match=r"there is no file .*instances\.json"):
        find_layout(tmp_path, "refcoco", "unc")


def test_missing_photos_are_told_at_once_with_names_and_total(tmp_path):
    data = Published(tmp_path, splits=("train",) * 5)
    data.photos.clear()
    with pytest.raises(UserError, match=r"5 images are missing in .* \(COCO_train2014_000000000001\.jpg, .*, \.\.\.\)"):
        prepare(data)


def change_annotation(data: Published) -> None:
    data.refs[0]["ann_id"] = 999


def change_annotations_image(data: Published) -> None:
    data.refs[0]["ann_id"] = 20


def change_image(data: Published) -> None:
    data.refs[0]["image_id"] = 77


def empty_an_expression(data: Published) -> None:
    data.refs[0]["sentences"][1]["sent"] = "  "


def break_a_polygon(data: Published) -> None:
    data.instances["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]


def resize_a_photo(data: Published) -> None:
    data.photos["COCO_train2014_000000000001.jpg"] = jpeg(20, 20)


def lead_out_of_the_folder(data: Published) -> None:
    data.instances["images"][0]["file_name"] = "../../refcoco/instances.json"


BAD = [
    (change_annotation, r"1 annotations are not in instances\.json \(999 of ref 1001\)", 6),
    (change_annotations_image, r"1 annotations lie on another image than their ref \(20 of ref 1001\)", 6),
    (change_image, r"1 images are not in instances\.json \(77\)", 6),
    (empty_an_expression, r"1 expressions are empty \(refcoco-unc/101\)", 7),
    (break_a_polygon, r"1 referents have an unusable mask \(refcoco-unc/1001: a polygon has fewer than 3 points\)", 6),
    (resize_a_photo, r"1 images have another size than annotated \(coco/1: \(20, 20\), annotated \(30, 40\)\)", 6),
    (lead_out_of_the_folder, r"1 images are missing in", 6),
]


@pytest.mark.parametrize(("damage", "message", "left"), BAD)
def test_damage_is_named_or_left_out_and_counted_on_demand(tmp_path, damage, message, left):
    data = Published(tmp_path)
    damage(data)
    with pytest.raises(UserError, match=message):
        prepare(data)
    store, findings = prepare(data, skip_bad=True)
    assert sum(split["expressions"] for split in store.splits.values()) == findings.expressions == left
    assert sum(findings.skipped.values()) == 1
    assert "left out: 1 " in "\n".join(findings.lines())


def test_nothing_left_is_an_error(tmp_path):
    data = Published(tmp_path)
    data.photos.clear()
    with pytest.raises(UserError, match=r"nothing is left to prepare\. 4 images are missing"):
        prepare(data, skip_bad=True)


def test_unknown_split_is_named(tmp_path):
    data = Published(tmp_path)
    data.refs[2]["split"] = "testD"
    with pytest.raises(UserError, match=r"1 references have a split that is none of train, val, .* \(1003: 'testD'\)"):
        prepare(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": "a10"}, 'entry 1 is not a reference: ref 1002: ann_id must be a whole number, not "a10"'),
        ({"ann_id": None}, "ref 1002: it lacks 'ann_id'"),
        ({"ann_id": 20.5}, "ref 1002: ann_id must be a whole number, not 20.5"),
        ({"ref_id": None}, "it lacks 'ref_id'"),
        ({"image_id": 2**70}, "image_id must be a whole number of at most 64 bits"),
        ({"split": None}, "it lacks 'split'"),
        ({"no_target": "yes"}, 'no_target must be 0 or 1, not "yes"'),
        ({"sentences": [{"sent_id": 1, "sent": 5}]}, "the text of sentence 1 must be text, not 5"),
        ({"sentences": [{"sent_id": 1, "sent": "a \udc00"}]}, "sentence 1 has half a character .*udc00. at place 3"),
        ({"sentences": [{"sent": "a"}]}, "it lacks 'sent_id'"),
        ({"sentences": None}, "entry 1 is not a reference"),
    ],
)
def test_entry_that_is_no_reference_is_named(tmp_path, change, message):
    data = Published(tmp_path)
    data.refs[1] |= change
    with pytest.raises(UserError, match=message):
        prepare(data)


def test_raw_text_serves_where_there_is_no_cleaned_one(tmp_path):
    data = Published(tmp_path)
    del data.refs[0]["sentences"][0]["sent"]
    store, _ = prepare(data)
    assert "THE LEFT CAT" in store.expressions(["train"])["text"].to_pylist()


def test_long_expression_is_kept_whole_and_mentioned(tmp_path):
    data = Published(tmp_path)
    data.refs[0]["sentences"][0]["sent"] = long = " ".join(["cat"] * 200)
    store, findings = prepare(data)
    assert long in store.expressions(["train"])["text"].to_pylist()
    assert findings.long_expressions == ["refcoco-unc/100"]


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_photo_that_cannot_be_decoded_is_kept_with_its_annotated_size(tmp_path, keep):
    data = Published(tmp_path)
    name = "COCO_train2014_000000000001.jpg"
    data.photos[name] = data.photos[name][:keep]
    store, findings = prepare(data)
    assert store.splits["train"]["expressions"] == 2
    image = photo(store, "coco/1")
    assert (image["image"], image["height"], image["width"]) == (data.photos[name], HEIGHT, WIDTH)
    assert target(store, "refcoco-unc/100").sum() == 30
    assert len(findings.undecodable) == 1
    assert findings.undecodable[0].startswith("coco/1: ")


def test_wrong_extension_is_no_obstacle(tmp_path):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = jpeg(kind="PNG")
    store, findings = prepare(data)
    assert photo(store, "coco/1")["height"] == HEIGHT
    assert findings.undecodable == []


def rotated(orientation: int, height: int, width: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[2:7, 3:9] = 255  # where the ref's annotation lies
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotation_of_the_unrotated_photo_turns_with_it(tmp_path, orientation):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = rotated(orientation, HEIGHT, WIDTH)
    store, findings = prepare(data)
    image = photo(store, "coco/1")
    assert (image["height"], image["width"]) == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(target(store, "refcoco-unc/100"), decode_image(image["image"])[..., 0] == 255)
    assert findings.turned == ["coco/1"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotation_of_the_upright_photo_stays(tmp_path, orientation):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = rotated(orientation, WIDTH, HEIGHT)
    store, findings = prepare(data)
    assert photo(store, "coco/1")["height"] == HEIGHT
    assert target(store, "refcoco-unc/100")[2:7, 3:9].all()
    assert findings.turned == findings.assumed_upright == []


def test_rotation_that_the_size_cannot_tell_is_mentioned(tmp_path):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = rotated(3, HEIGHT, WIDTH)
    store, findings = prepare(data)
    assert target(store, "refcoco-unc/100")[2:7, 3:9].all()
    assert findings.assumed_upright == ["coco/1"]


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_the_choice_decides_where_the_size_cannot_tell(tmp_path, orientation):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = rotated(orientation, HEIGHT, WIDTH)
    store, findings = prepare(data, exif_annotated="as-stored")
    upright = decode_image(photo(store, "coco/1")["image"])
    np.testing.assert_array_equal(target(store, "refcoco-unc/100"), upright[..., 0] == 255)
    assert (findings.assumed_stored, findings.assumed_upright, findings.turned) == (["coco/1"], [], [])
    assert any(line.startswith("1 images are turned by EXIF") for line in findings.lines())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_twice_the_right_way_round_is_the_identity(orientation):
    back = {6: 8, 8: 6}.get(orientation, orientation)
    mask = np.random.default_rng(0).random((5, 8)) > 0.5
    np.testing.assert_array_equal(turn_upright(turn_upright(mask, orientation), back), mask)


def test_images_in_two_splits_are_mentioned(tmp_path):
    data = Published(tmp_path)
    data.refs[1]["image_id"], data.refs[1]["ann_id"] = 1, 11
    data.write()
    assert list(shared_images(read_refs(data.refs_file))) == ["1 images are in both train and val"]


@needs_mini
@pytest.mark.parametrize(
    ("dataset", "split_by", "refs", "expressions", "images"),
    [
        ("refcoco", "unc", {"val": 13, "testA": 4, "testB": 7}, 71, 9),
        ("refcocog", "google", {"val": 9}, 9, 8),
    ],
)
def test_real_files(tmp_path, dataset, split_by, refs, expressions, images):
    layout = find_layout(MINI, dataset, split_by)
    published = read_refs(layout.refs)
    assert {split: count["refs"] for split, count in count_splits(published).items()} == refs
    store, findings = write_store(layout, published, str(tmp_path / "store"))
    assert (findings.expressions, findings.images) == (expressions, images)
    assert list(findings.lines()) == []
    for row in store.expressions().to_pylist():
        assert rle.area(row["target"]) > 0
