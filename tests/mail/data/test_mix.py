"""A mixture of data stores trains on nothing that any of them evaluates on, and says what that cost."""

from pathlib import Path

import numpy as np
import pytest

from mail import rle
from mail.data.mix import mix
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from mail.leakage import overlaps
from pipelines.__main__ import main
from tests.mail.test_leakage import photos_store, picture, saved


def make_store(folder: Path, name: str, splits: dict[str, str], content: str = "same") -> DataStore:
    """A store with two expressions of every image; `splits` by image id."""
    writer = DataStoreWriter(folder / name, name)
    for image_id, split in splits.items():
        data = f"{image_id} {content}".encode()
        writer.add_image(image_id=image_id, file_name=f"{image_id}.jpg", image=data, height=4, width=6)
        for number in range(2):
            writer.add_expression(
                expr_id=f"{name}/{image_id}/{number}",
                ref_id=f"{name}/{image_id}",
                image_id=image_id,
                split=split,
                text="thing",
                target=rle.encode(np.ones((4, 6), bool)),
                no_target=False,
                ann_ids=[1],
                category="thing",
            )
    return writer.finish()


@pytest.fixture
def stores(tmp_path: Path) -> list[DataStore]:
    first = make_store(tmp_path, "first", {"a": "train", "b": "train", "c": "val", "d": "testA"})
    second = make_store(tmp_path, "second", {"b": "val", "c": "train", "e": "train"})
    return [first, second]


def images(store: DataStore, split: str) -> set[str]:
    return set(store.expressions([split], ["image_id"])["image_id"].to_pylist())


def test_no_evaluation_image_of_any_store_is_trained_on(stores: list[DataStore], tmp_path: Path) -> None:
    mixture = mix(stores, str(tmp_path / "mix"), "mix")
    store = DataStore(tmp_path / "mix")
    assert images(store, "train") == {"a", "e"}
    assert images(store, "val") == {"b", "c"}
    assert images(store, "testA") == {"d"}
    assert all(not overlaps(images(store, "train"), other) for other in stores)
    assert mixture.left_out == {("first", "second val"): (1, 2), ("second", "first val"): (1, 2)}
    assert (mixture.images, mixture.expressions) == (2, 4)


def test_an_image_of_several_stores_is_kept_once_with_all_that_is_said(tmp_path: Path) -> None:
    both = [make_store(tmp_path, name, {"a": "train", "b": "train"}) for name in ("first", "second")]
    store = mix(both, str(tmp_path / "mix"), "mix").store
    assert store.manifest["image_count"] == 2
    assert store.splits["train"] == {"images": 2, "refs": 4, "expressions": 8}
    assert [s["sha256"] for s in store.manifest["sources"]] == [s.digest for s in both]


def test_images_that_are_held_out_elsewhere_are_not_trained_on(stores: list[DataStore], tmp_path: Path) -> None:
    elsewhere = make_store(tmp_path, "elsewhere", {"a": "test"})
    store = mix(stores, str(tmp_path / "mix"), "mix", held_out=[elsewhere]).store
    assert images(store, "train") == {"e"}
    assert "test" not in store.splits


def test_what_cannot_be_mixed_is_said(stores: list[DataStore], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        mix(stores[:1], str(tmp_path / "1"), "mix")
    with pytest.raises(UserError, match="two of the data stores are called first"):
        mix([stores[0], stores[0]], str(tmp_path / "2"), "mix")
    other = make_store(tmp_path, "other", {"a": "train"}, content="another photo")
    with pytest.raises(UserError, match=r"image a .* different content"):
        mix([stores[0], other], str(tmp_path / "3"), "mix")
    evaluated = make_store(tmp_path, "evaluated", {"a": "val", "b": "val"})
    trained = make_store(tmp_path, "trained", {"a": "train", "b": "train"})
    with pytest.raises(UserError, match="nothing is left to train on"):
        mix([evaluated, trained], str(tmp_path / "4"), "mix")
    assert not (tmp_path / "4" / "store.json").exists()


def test_the_stage_says_what_it_left_out_and_fails_if_it_must(
    stores: list[DataStore], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", "mix", "--stores", *(s.uri for s in stores), "--out", str(tmp_path / "mix")]
    assert main([*arguments, "--strict"]) == 2
    assert "1 images of first train are in second val" in capsys.readouterr().err
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "2 training expressions of first on 1 images of second val" in said.err
    assert "4 training expressions on 2 evaluation images left out" in said.out


def test_the_same_photo_under_another_id_is_left_out_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = {n: saved(picture(n)) for n in range(4)}
    again = saved(picture(1), compress_level=0)
    near = saved(picture(2).resize((96, 72)), "JPEG", quality=70)
    first = photos_store(tmp_path, "first", {f"a/{n}": ("train", data) for n, data in photos.items()})
    second = photos_store(
        tmp_path,
        "second",
        {"b/0": ("val", photos[0]), "b/1": ("test", again), "b/2": ("test", near), "b/3": ("train", near)},
    )
    mixture = mix([first, second], str(tmp_path / "mix"), "mix")
    assert images(mixture.store, "train") == {"a/2", "a/3"}
    assert mixture.left_out == {
        ("first", "second val"): (1, 1),
        ("first", "second test"): (1, 1),
        ("second", "second test"): (1, 1),
    }
    keys = mixture.store.image_keys(["train"])["train"]
    assert keys["pixels"].null_count == 0
    assert all(not overlaps(keys, store) for store in (first, second))
    arguments = ["prepare", "mix", "--stores", first.uri, second.uri, "--out", str(tmp_path / "again")]
    assert main([*arguments, "--strict"]) == 2
    said = capsys.readouterr().err
    assert "1 images of first train are in second val" in said
    assert "1 images of second train are in second test" in said
    assert main(arguments) == 0
    assert "look alike, which is no leak: a/2 and b/2" in capsys.readouterr().err


def test_of_two_files_of_a_photo_that_of_the_first_store_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {n: saved(picture(n)) for n in range(3)}
    smaller = saved(picture(1).resize((96, 72)), "JPEG", quality=90)
    first = photos_store(tmp_path, "first", {f"coco/{n}": ("train", data) for n, data in photos.items()})
    second = photos_store(tmp_path, "second", {"coco/1": ("train", smaller), "vg/1": ("train", saved(picture(7)))})
    mixture = mix([first, second], str(tmp_path / "mix"), "mix")
    assert mixture.other_files == {("second", "first"): (1, 1)}
    assert images(mixture.store, "train") == {"coco/0", "coco/1", "coco/2", "vg/1"}
    arguments = ["prepare", "mix", "--stores", second.uri, first.uri, "--out", str(tmp_path / "other")]
    assert main(arguments) == 0
    said = "left out: 1 expressions of first on 1 photos of which second has another file"
    assert said in capsys.readouterr().err
    evaluated = photos_store(tmp_path, "evaluated", {"coco/1": ("val", smaller)})
    mixture = mix([first, evaluated], str(tmp_path / "third"), "mix")
    assert (mixture.other_files, images(mixture.store, "train")) == ({}, {"coco/0", "coco/2"})
    another = photos_store(tmp_path, "another", {"coco/1": ("train", saved(picture(5)))})
    with pytest.raises(UserError, match=r"image coco/1 .* different content"):
        mix([first, another], str(tmp_path / "fourth"), "mix")
