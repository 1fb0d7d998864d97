"""data verify: any change of any byte of a data store is found and named; a sound one is left in peace."""

import random
from pathlib import Path

import pytest

from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.stages.data import DataVerify
from tests.boxes import make_boxes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_boxes(tmp_path_factory.mktemp("store"), images=4, broken=0).store_uri)


def test_a_store_as_it_was_written_is_all_right(store: Path) -> None:
    assert DataVerify(store=str(store)).run() == []


@pytest.mark.parametrize("seed", range(30))
def test_one_change_anywhere_is_named(store: Path, seed: int) -> None:
    random_ = random.Random(seed)
    path = random_.choice([store / "store.json", *sorted(store.rglob("*.parquet"))])
    sound = path.read_bytes()
    content = bytearray(sound)
    at = random_.randrange(len(content))
    if path.name == "store.json":  # what changes no value changes nothing
        content = bytearray(sound.replace(b'"image_count": 4', b'"image_count": 5'))
        assert content != sound
    elif random_.random() < 0.5:
        content[at] ^= 1 << random_.randrange(8)
    else:
        del content[at:]
    path.write_bytes(content)
    try:
        with pytest.raises(UserError, match=path.name):
            DataVerify(store=str(store)).run()
    finally:
        path.write_bytes(sound)


def test_a_file_that_is_gone_is_named(store: Path) -> None:
    (path,) = store.glob("images/*.parquet")
    path.rename(store / "away")
    try:
        with pytest.raises(UserError, match=rf"images/{path.name}: the file is missing"):
            DataVerify(store=str(store)).run()
    finally:
        (store / "away").rename(path)
    assert DataStore(store).manifest["image_count"] == 4
