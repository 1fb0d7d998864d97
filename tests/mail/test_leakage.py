"""No evaluation image may have been seen: overlap is named, refused, or labelled."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mail import rle
from mail.data.coco import CocoInstances
from mail.data.image_keys import ImageContent, alike, entries_of, keys_of
from mail.data.images import open_image, upright_rgb
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from mail.leakage import check_leakage, check_model, check_split, overlaps
from tests.boxes import make_boxes
from tests.published_lists import refcoco_lists, write_lists


def split_images(store: DataStore, split: str) -> list[str]:
    return store.expressions([split], ["image_id"])["image_id"].unique().to_pylist()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    return make_boxes(tmp_path_factory.mktemp("boxes")).store


def test_training_images_may_be_seen(store: DataStore) -> None:
    seen = tuple(split_images(store, "train"))
    assert not check_leakage(seen, store).leaky


def test_an_overlap_is_refused_with_splits_and_counts(store: DataStore) -> None:
    seen = [*split_images(store, "train"), *split_images(store, "val")[:2]]
    total = store.splits["val"]["images"]
    with pytest.raises(UserError, match=f"2 of {total} of val") as raised:
        check_leakage(seen, store)
    assert "testA" not in str(raised.value)
    assert "--allow-leaky" in str(raised.value)
    assert check_leakage(seen, store, allow_leaky=True).leaky
    assert not check_leakage(seen, store, ["testA"]).leaky
    assert not check_leakage(seen, store, ["train"]).leaky


def test_unknown_origin_counts_as_leaky(store: DataStore) -> None:
    with pytest.raises(UserError, match="nobody knows"):
        check_leakage(None, store)
    assert check_leakage(None, store, allow_leaky=True).leaky


def test_a_mask_table_remembers_what_its_proposer_saw(tmp_path: Path) -> None:
    boxes = make_boxes(tmp_path)
    assert not check_leakage(boxes.masks.origin(), boxes.store).leaky
    assert set(boxes.masks.origin().image_ids) == {f"boxes/{n:04d}" for n in range(30) if n % 4 != 3}


def test_every_split_but_train_is_an_evaluation_split() -> None:
    assert [s for s in ("train", "val", "test", "testA", "testB") if not is_evaluation_split(s)] == ["train"]


def test_the_published_lists(repository: Path, tmp_path: Path) -> None:
    data = repository / "../shared/data"
    if not (data / "refcoco_text").exists():
        pytest.skip("needs shared/data beside the checkout")
    images = refcoco_lists(data)
    store = write_lists(tmp_path / "store", images)
    assert overlaps(images, store) == {"val": 1500, "testA": 750, "testB": 750}
    with pytest.raises(UserError, match="750 of 750 of testA"):
        check_leakage(list(images), store)
    pool = CocoInstances(data / "coco_pool/instances.json")
    assert not check_leakage([f"coco/{i}" for i in pool.images], store).leaky


def picture(seed: int, size: tuple[int, int] = (90, 120)) -> Image.Image:
    """Large shapes, as photos have them: the same seed always shows the same."""
    few = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(few).resize(size[::-1], Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photos_store(folder: Path, name: str, photos: dict[str, tuple[str, bytes]]) -> DataStore:
    """A store of photos: (split, file) by image id."""
    writer = DataStoreWriter(folder / name, name)
    for image_id, (split, data) in photos.items():
        shown = upright_rgb(open_image(data))
        height, width = shown.height, shown.width
        content = ImageContent.of(data, shown)
        writer.add_image(image_id=image_id, file_name="", image=data, height=height, width=width, content=content)
        writer.add_expression(
            expr_id=f"{name}/{image_id}",
            ref_id=image_id,
            image_id=image_id,
            split=split,
            text="it",
            target=rle.empty(height, width),
            no_target=True,
            ann_ids=[],
            category="",
        )
    return writer.finish()


SAME = {"the file": saved(picture(1)), "the pixels": saved(picture(1), compress_level=0)}


@pytest.mark.parametrize("same", SAME)
def test_the_same_photo_under_another_id_is_a_leak(tmp_path: Path, same: str) -> None:
    seen = photos_store(tmp_path, "seen", {"x/1": ("train", saved(picture(1))), "x/2": ("train", saved(picture(2)))})
    store = photos_store(tmp_path, "own", {"y/7": ("val", SAME[same]), "y/8": ("val", saved(picture(3)))})
    keys = seen.image_keys(["train"])["train"]
    assert overlaps(keys, store) == {"val": 1}
    with pytest.raises(UserError, match=r"1 of 2 of val \(first: y/7\)"):
        check_leakage(keys, store)
    assert not check_leakage(["x/1", "x/2"], store).leaky
    assert "2 of 2 images that the proposer was trained on are known by id only" in str(
        check_leakage(["x/1"] * 2, store)
    )


def test_photos_that_look_alike_are_said_and_no_leak(tmp_path: Path) -> None:
    seen = photos_store(tmp_path, "seen", {f"x/{n}": ("train", saved(picture(n))) for n in range(5)})
    again = picture(1).resize((96, 72))
    store = photos_store(
        tmp_path, "own", {"y/7": ("val", saved(again, "JPEG", quality=70)), "y/8": ("val", saved(picture(9)))}
    )
    verdict = check_leakage(seen.image_keys(["train"])["train"], store)
    assert not verdict.leaky
    (line,) = verdict.remarks
    assert "1 pairs of an image that the proposer was trained on" in line
    assert line.endswith("look alike, which is no leak: x/1 and y/7")


def test_pictures_of_one_colour_look_like_nothing() -> None:
    flat = keys_of([(str(n), *ImageContent.of(b"", Image.new("RGB", (9, 9), (n, n, n)))) for n in range(3)])
    assert flat["perceptual_hash"].null_count == 3
    assert not list(alike(flat, flat))


def test_the_splits_of_one_store_are_compared(tmp_path: Path) -> None:
    photos = {"a": ("train", saved(picture(1))), "b": ("val", SAME["the pixels"]), "c": ("testA", saved(picture(2)))}
    store = photos_store(tmp_path, "own", photos)
    with pytest.raises(
        UserError, match=r"a model of the split train .*: 1 of 1 of val \(first: b\). Put each photo into"
    ):
        check_split(store, "train")
    verdict = check_split(store, "train", allow_leaky=True)
    assert verdict.leaky
    assert "1 of 1 of val" in verdict.remarks[0]
    assert not check_split(store, "testA").leaky


def test_a_model_is_checked_on_the_very_store_that_it_was_trained_on(tmp_path: Path) -> None:
    photos = {"a": ("train", saved(picture(1))), "b": ("val", SAME["the pixels"]), "c": ("testA", saved(picture(2)))}
    store = photos_store(tmp_path, "own", photos)
    origin = {"data_store": {"uri": "", "digest": store.digest}, "leaky": False}
    with pytest.raises(UserError, match=r"the model was trained on images .*: 1 of 1 of val"):
        check_model(origin, store, "val")
    assert not check_model(origin, store, "testA").leaky
    with pytest.raises(UserError, match="1 of 1 of testA"):
        check_model(origin | {"config": {"split": "testA"}}, store, "testA")


def test_stores_of_earlier_versions_are_compared_by_id_and_file_and_that_is_said(tmp_path: Path) -> None:
    store = photos_store(tmp_path, "own", {"y/7": ("val", saved(picture(1))), "y/8": ("val", SAME["the pixels"])})
    for file in store.image_files:
        table = pq.read_table(store.path(file))
        pq.write_table(table.drop(["pixels", "perceptual_hash"]), store.path(file))
    seen = photos_store(tmp_path, "seen", {"x/1": ("train", saved(picture(1)))})
    verdict = check_leakage(seen.image_keys(["train"])["train"], DataStore(store.uri), allow_leaky=True)
    assert "1 of 2 of val (first: y/7)" in verdict.remarks[0]
    assert (
        "2 of 3 images of the proposer and the evaluation splits of own were compared by id and file"
        in verdict.remarks[1]
    )


def test_digests_of_pixels_that_earlier_versions_took_are_not_compared() -> None:
    sha256, pixels, looks = ImageContent.of(b"b", picture(1))
    keys = keys_of([("a", sha256, "f" * 64, looks), ("b", sha256, pixels, looks)])
    assert keys["pixels"].to_pylist() == [None, pixels]
    assert keys["sha256"].null_count == 0


def test_keys_are_the_same_after_json() -> None:
    keys = keys_of(["a", "b", ("b", *ImageContent.of(b"b", picture(1)))])
    kept = keys_of(entries_of(keys))
    assert entries_of(keys)[0] == "a"
    assert kept.equals(keys.take([0, 2]))
