"""No evaluation image may have been seen: overlap is named, refused, or labelled."""

from pathlib import Path

import pytest

from mail.data.coco import CocoInstances
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import check_leakage, overlaps
from tests.boxes import make_boxes
from tests.published_lists import refcoco_lists, write_lists


def split_images(store: DataStore, split: str) -> list[str]:
    return store.expressions([split], ["image_id"])["image_id"].unique().to_pylist()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataStore:
    return make_boxes(tmp_path_factory.mktemp("boxes")).store


def test_training_images_may_be_seen(store: DataStore) -> None:
    seen = tuple(split_images(store, "train"))
    assert check_leakage(seen, store) is False


def test_an_overlap_is_refused_with_splits_and_counts(store: DataStore) -> None:
    seen = [*split_images(store, "train"), *split_images(store, "val")[:2]]
    total = store.splits["val"]["images"]
    with pytest.raises(UserError, match=f"2 of {total} of val") as raised:
        check_leakage(seen, store)
    assert "testA" not in str(raised.value)
    assert "--allow-leaky" in str(raised.value)
    assert check_leakage(seen, store, allow_leaky=True) is True
    assert check_leakage(seen, store, ["testA"]) is False
    assert check_leakage(seen, store, ["train"]) is False


def test_unknown_origin_counts_as_leaky(store: DataStore) -> None:
    with pytest.raises(UserError, match="nobody knows"):
        check_leakage(None, store)
    assert check_leakage(None, store, allow_leaky=True) is True


def test_a_mask_table_remembers_what_its_proposer_saw(tmp_path: Path) -> None:
    boxes = make_boxes(tmp_path)
    assert check_leakage(boxes.masks.trained_on(), boxes.store) is False
    clean = boxes.masks.trained_on()
    assert clean
    assert set(clean) == {f"boxes/{n:04d}" for n in range(30) if n % 4 != 3}


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
    assert check_leakage([f"coco/{i}" for i in pool.images], store) is False
