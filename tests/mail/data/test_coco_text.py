import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from mail import rle
from mail.data.coco_text import TextConfig, split_of, write_store
from mail.data.descriptions import LEVEL, SAME_SIZE, Description, Thing, describe
from mail.data.orientation import turn_box
from mail.errors import UserError
from tests.published import HEIGHT, WIDTH, Published, jpeg

POOL = Path(__file__).resolve().parents[4] / "shared/data/coco_pool"


def thing(number: int, left: float, top: float, side: float = 10, category: str = "cat") -> Thing:
    return Thing(number, category, left, top, left + side, top + side, side * side)


def words(peers: list[Thing], others: list[Thing] | None = None, height: int = 100, width: int = 100) -> dict[int, set]:
    """All unambiguous wordings of each peer."""
    found: dict[int, set[str]] = {number: set() for number in range(len(peers))}
    for description in describe(peers, others or [], height, width):
        for number in found:
            if description.names(number):
                found[number].update(description.wordings)
    return found


def test_the_only_one_is_named_by_its_category():
    assert "the only cat" in words([thing(0, 5, 5)])[0]


def test_two_side_by_side_are_left_and_right():
    left, right = words([thing(0, 5, 40), thing(1, 80, 40)]).values()
    assert {"leftmost cat", "left cat", "cat on the left"} <= left
    assert {"rightmost cat", "right cat", "cat on the right"} <= right
    assert not left & right


def test_side_by_side_is_not_above():
    for found in words([thing(0, 5, 40), thing(1, 80, 42)]).values():
        assert not any("top" in text or "bottom" in text or "low" in text for text in found)


def test_nearly_the_same_place_and_size_cannot_be_told_apart():
    assert words([thing(0, 40, 40), thing(1, 42, 42, side=11)]) == {0: set(), 1: set()}


def test_rows_are_counted_from_the_nearer_end():
    found = words([thing(n, 20 * n, 40) for n in range(5)])
    assert "second cat from left" in found[1]
    assert "third cat from left" in found[2]
    assert "second cat from right" in found[3]
    assert not any("fourth" in text for texts in found.values() for text in texts)


def test_rows_that_cannot_be_counted_are_not():
    found = words([thing(0, 0, 40), thing(1, 30, 40), thing(2, 32, 40), thing(3, 80, 40)])
    assert not any("second" in text or "third" in text for texts in found.values() for text in texts)


def test_middle_needs_three():
    assert "middle cat" in words([thing(n, 30 * n, 40) for n in range(3)])[1]
    assert not any("middle" in t for texts in words([thing(n, 20 * n, 40) for n in range(4)]).values() for t in texts)


def test_size_is_said_only_where_it_is_clear():
    assert "bigger cat" in words([thing(0, 0, 0, side=30), thing(1, 60, 0)])[0]
    assert not any("bigger" in text for text in words([thing(0, 0, 0, side=12), thing(1, 60, 0)])[0])


def test_relation_to_the_only_dog():
    dog = thing(9, 45, 40, category="dog")
    left, right = words([thing(0, 5, 40), thing(1, 85, 40)], [dog]).values()
    assert "cat left of the dog" in left
    assert "cat to the right of the dog" in right
    above, below = words([thing(0, 45, 2), thing(1, 45, 85)], [dog]).values()
    assert "cat above the dog" in above
    assert {"cat below the dog", "cat under the dog"} <= below


def test_relation_that_also_fits_another_unclearly_is_not_used():
    dog = thing(9, 45, 40, category="dog")
    half_left = thing(1, 40, 40, side=12)  # overlaps the dog, its centre a little to the left
    assert "cat left of the dog" not in words([thing(0, 5, 40), half_left], [dog])[0]


def mirrored(item: Thing, width: int) -> Thing:
    return Thing(item.ann_id, item.category, width - item.right, item.top, width - item.left, item.bottom, item.area)


def swap_sides(texts: set[str]) -> set[str]:
    return {text.replace("left", "\0").replace("right", "left").replace("\0", "right") for text in texts}


def scene(random: Random, peers: int) -> tuple[list[Thing], list[Thing]]:
    def place(number: int, category: str) -> Thing:
        return thing(number, random.uniform(0, 80), random.uniform(0, 80), random.uniform(5, 25), category)

    return [place(n, "cat") for n in range(peers)], [place(9, "dog")]


@pytest.mark.parametrize("seed", range(60))
def test_mirrored_picture_has_mirrored_words(seed):
    random = Random(seed)
    peers, others = scene(random, random.randint(1, 6))
    mirror = words([mirrored(t, 100) for t in peers], [mirrored(t, 100) for t in others])
    for number, texts in words(peers, others).items():
        assert swap_sides(texts) == mirror[number]


@pytest.mark.parametrize("seed", range(60))
def test_words_are_true_of_their_referent_alone(seed):
    random = Random(seed)
    peers, others = scene(random, random.randint(2, 6))
    for number, texts in words(peers, others).items():
        me, rest = peers[number], [p for n, p in enumerate(peers) if n != number]
        for text in texts:
            if text.startswith("leftmost"):
                assert all(other.x > me.x + LEVEL * 100 for other in rest)
            if text.startswith("lowest"):
                assert all(other.y < me.y - LEVEL * 100 for other in rest)
            if "biggest" in text or "bigger" in text:
                assert all(me.area > SAME_SIZE * other.area for other in rest)
            if "left of" in text:
                assert me.x < others[0].x
                assert all(other.x >= others[0].x for other in rest)
            if "second" in text and "left" in text:
                assert sum(other.x < me.x for other in rest) == 1


def test_no_wording_is_shared_by_two_peers():
    for seed in range(60):
        random = Random(seed)
        peers, others = scene(random, 4)
        counts = Counter(text for texts in words(peers, others).values() for text in texts)
        assert all(count == 1 for count in counts.values())


def test_unclear_is_not_unambiguous():
    assert Description("size", [True, False], ("",)).names(0)
    assert not Description("size", [True, None], ("",)).names(0)
    assert not Description("size", [None, False], ("",)).names(0)


def test_splits_follow_the_image_id_and_who_is_in_it():
    counts = Counter(split_of(f"coco/{n}", True, True) for n in range(2000))
    assert 0.76 < counts["train"] / 2000 < 0.84
    assert min(counts.values()) > 80
    assert "testA" not in {split_of(f"coco/{n}", False, True) for n in range(200)}
    assert "testB" not in {split_of(f"coco/{n}", True, False) for n in range(200)}


def files_of(data: Published) -> tuple[str, Path]:
    data.write()
    return str(data.root / data.dataset / "instances.json"), data.images_folder


def test_store_of_a_small_set(tmp_path):
    data = Published(tmp_path, splits=("train",) * 30)
    store, findings = write_store(*files_of(data), str(tmp_path / "store"))
    rows = store.expressions().to_pylist()
    assert findings.images == 30
    assert all(row["image_id"].startswith("coco/") and rle.area(row["target"]) == 30 for row in rows)
    assert {row["category"] for row in rows} == {"cat", "dog"}
    splits = {}
    for row in rows:
        assert splits.setdefault(row["image_id"], row["split"]) == row["split"]
    again, _ = write_store(*files_of(data), str(tmp_path / "again"))
    assert again.digest == store.digest


def test_crowded_category_is_left_alone(tmp_path):
    data = Published(tmp_path, splits=("train",))
    data.instances["annotations"][0]["iscrowd"] = 1
    store, _ = write_store(*files_of(data), str(tmp_path / "store"))
    assert set(store.expressions()["category"].to_pylist()) == {"dog"}
    assert not any("cat" in text for text in store.expressions()["text"].to_pylist())


def test_missing_photos_and_foreign_sizes_are_told_or_left_out(tmp_path):
    data = Published(tmp_path)
    data.photos["COCO_train2014_000000000001.jpg"] = jpeg(HEIGHT, WIDTH + 1)
    with pytest.raises(UserError, match=r"1 images have another size than annotated \(coco/1"):
        write_store(*files_of(data), str(tmp_path / "store"))
    (data.images_folder / "COCO_train2014_000000000002.jpg").unlink()
    arguments = str(tmp_path / "refcoco/instances.json"), data.images_folder, str(tmp_path / "store")
    with pytest.raises(UserError, match=r"1 images are missing in .* \(COCO_train2014_000000000002\.jpg\)"):
        write_store(*arguments)
    store, findings = write_store(*arguments, skip_bad=True)
    assert store.manifest["image_count"] == 2
    assert sum(findings.skipped.values()) == 2


@pytest.mark.parametrize(("orientation", "chosen"), [(3, "as-stored"), (6, "as-shown"), (8, "as-shown")])
def test_expressions_are_about_the_picture_as_a_viewer_shows_it(tmp_path, orientation, chosen):
    """What was annotated on the stored pixels is described as if it had been annotated upright."""
    data = Published(tmp_path / "stored", splits=("train",) * 8)
    turned, exif = Published(tmp_path / "shown", splits=("train",) * 8), Image.Exif()
    exif[0x0112] = orientation
    for name in data.photos:
        data.photos[name] = jpeg(HEIGHT, WIDTH, exif=exif)
        turned.photos[name] = jpeg(HEIGHT, WIDTH, exif=exif)
    for image in turned.instances["images"] if orientation >= 5 else ():
        image["height"], image["width"] = WIDTH, HEIGHT
    for annotation in turned.instances["annotations"]:
        x, y, width, height = annotation["bbox"]
        left, top, right, bottom = turn_box((x, y, x + width, y + height), (HEIGHT, WIDTH), orientation)
        annotation["bbox"] = [left, top, right - left, bottom - top]
        annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    stored, findings = write_store(*files_of(data), str(tmp_path / "a"), exif_annotated=chosen)
    shown, _ = write_store(*files_of(turned), str(tmp_path / "b"))
    columns = ["expr_id", "text", "target"]
    assert stored.expressions(columns=columns).to_pylist() == shown.expressions(columns=columns).to_pylist()
    assert len(findings.turned if orientation >= 5 else findings.assumed_stored) == 8


def test_nothing_to_say_is_an_error(tmp_path):
    data = Published(tmp_path)
    for annotation in data.instances["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(UserError, match="not one unambiguous expression"):
        write_store(*files_of(data), str(tmp_path / "store"))


def test_senseless_config_is_refused():
    with pytest.raises(UserError, match="max_refs"):
        TextConfig(max_refs=0)


@pytest.mark.skipif(not POOL.exists(), reason="needs shared/data/coco_pool beside the checkout")
def test_real_photos(tmp_path):
    whole = json.loads((POOL / "instances.json").read_text())
    some = {image["id"] for image in whole["images"][:60]}
    whole["images"] = whole["images"][:60]
    whole["annotations"] = [a for a in whole["annotations"] if a["image_id"] in some]
    (tmp_path / "instances.json").write_text(json.dumps(whole))
    store, findings = write_store(str(tmp_path / "instances.json"), POOL / "images", str(tmp_path / "store"))
    assert findings.images > 50
    assert findings.expressions > 200
    for first, second in pairwise(store.expressions().to_pylist()):
        same_image = first["image_id"] == second["image_id"]
        assert not (same_image and first["text"] == second["text"] and first["ref_id"] != second["ref_id"])


def test_sentences_follow_the_masks_whatever_the_file_declares(tmp_path):
    data = Published(tmp_path)
    plain, _ = write_store(*files_of(data), str(tmp_path / "plain"))
    for annotation in data.instances["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation |= {"area": 0, "bbox": [x, y, x + width, y + height], "category_id": str(annotation["category_id"])}
    data.instances["categories"] = [{"id": 1, "name": " Cat"}, {"id": "2", "name": "dog "}, {"id": 3, "name": "DOG"}]
    odd, findings = write_store(*files_of(data), str(tmp_path / "odd"))
    assert [t.lower() for t in odd.expressions()["text"].to_pylist()] == plain.expressions()["text"].to_pylist()
    assert any("8 of 8 annotations that were looked at give their bbox as corners" in line for line in findings.lines())
    assert any("8 of 8 annotations that were looked at declare another area" in line for line in findings.lines())


def test_what_has_no_mask_or_no_name_makes_no_sentence_and_is_counted(tmp_path):
    data = Published(tmp_path, splits=("train", "train"))
    first, second, third, fourth = data.instances["annotations"]
    second["segmentation"] = []
    third["category_id"] = 9
    with pytest.raises(UserError, match=r"1 annotations have no usable mask \(11: its segmentation is empty"):
        write_store(*files_of(data), str(tmp_path / "store"))
    store, findings = write_store(*files_of(data), str(tmp_path / "store"), skip_bad=True)
    assert set(store.expressions()["ref_id"].to_pylist()) == {f"coco-text/{a['id']}" for a in (first, fourth)}
    assert "left out: 1 annotations have no usable mask" in list(findings.lines())
    assert "1 annotations are of categories that `categories` does not list (9: 1)" in list(findings.lines())


def test_all_left_out_is_an_error_with_the_reason(tmp_path):
    data = Published(tmp_path)
    for annotation in data.instances["annotations"]:
        annotation["segmentation"] = annotation["segmentation"][0]
    with pytest.raises(UserError, match=r"8 annotations have no usable mask .*put it into one more pair of brackets"):
        write_store(*files_of(data), str(tmp_path / "store"), skip_bad=True)
    assert not (tmp_path / "store/store.json").exists()
