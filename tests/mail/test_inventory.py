"""A folder is whole if every file is what was written; any change of any file is found, and so is one of the list."""

import json
import random
from hashlib import sha256
from pathlib import Path

import pytest
from pyarrow import fs

from mail.errors import UserError
from mail.inventory import (
    FILE,
    DamagedError,
    check_inventory,
    compared,
    difference,
    fault,
    is_sealed,
    kind_of,
    sealed,
    transfer,
    write_inventory,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "proposer").mkdir(parents=True)
    for name, content in (("weights", random.Random(0).randbytes(5000)), ("proposer/a.json", b"{}"), ("empty", b"")):
        (folder / name).write_bytes(content)
    write_inventory(folder)
    return folder


def test_a_folder_as_it_was_written_is_whole(folder: Path) -> None:
    check_inventory(folder)
    (folder / "README.md").write_text("what people add is theirs")
    check_inventory(folder)


@pytest.mark.parametrize("seed", range(40))
def test_one_change_anywhere_is_found(folder: Path, seed: int) -> None:
    random_ = random.Random(seed)
    path = random_.choice([folder / "weights", folder / "proposer/a.json"])
    content = bytearray(path.read_bytes())
    at = random_.randrange(len(content))
    if random_.random() < 0.5:
        content[at] ^= 1 << random_.randrange(8)
    else:
        del content[at:]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: .*Copy or export it again"):
        check_inventory(folder)


def test_a_change_of_the_list_is_found(folder: Path) -> None:
    text = (folder / FILE).read_text()
    for other in (text.replace("5000", "5001"), text.replace('"weights"', '"weight"'), text[:-1], "", "[]"):
        (folder / FILE).write_text(other)
        with pytest.raises(UserError, match="damaged: the list of its files is not what was written"):
            check_inventory(folder)


def test_the_first_that_is_wrong_is_named(folder: Path) -> None:
    record = json.loads((folder / FILE).read_bytes())
    here = fs.LocalFileSystem()
    (folder / "weights").write_bytes(bytes(5000))
    assert fault(record, here, str(folder), contents=False) is None
    assert fault(record, here, str(folder), contents=True) == "the content of weights is not what was written"
    (folder / "weights").write_bytes(bytes(4999))
    assert fault(record, here, str(folder), contents=False) == "weights has 4999 bytes instead of 5000"
    (folder / "weights").unlink()
    assert fault(record, here, str(folder), contents=False) == "weights is not there"


def test_what_is_loaded_from_damaged_files_is_not_used(tmp_path: Path) -> None:
    for name, size in (("config", 100), ("weights", 5 * 2**20)):
        (tmp_path / name).write_bytes(random.Random(0).randbytes(size))
    write_inventory(tmp_path)
    for name, entered in (("config", False), ("weights", True)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        was = False
        wrong = pytest.raises(DamagedError, match=f"the content of {name} is not what was written. Copy or export")
        with wrong, compared(tmp_path):
            was = True
            raise KeyError("what the loader says of garbage")
        assert was == entered, "the short files tell the loader how much memory to take"
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyError), compared(tmp_path):
        raise KeyError("its own error")


@pytest.mark.parametrize("move", [False, True])
def test_files_bring_their_digests_along(folder: Path, tmp_path: Path, move: bool) -> None:
    listed = json.loads((folder / FILE).read_bytes())["files"]
    here, names = fs.LocalFileSystem(), ["weights", "proposer/a.json"]
    taken = transfer(here, str(folder), names, here, str(tmp_path / "new" / "place"), move=move)
    assert taken == {name: listed[name] for name in names}
    assert [(folder / name).exists() for name in names] == [not move] * 2
    assert difference(listed, taken) is None
    (tmp_path / "new/place/weights").write_bytes(bytes(5000))
    again = transfer(here, str(tmp_path / "new/place"), names, here, str(tmp_path / "third"))
    assert difference(listed, again) == "the content of weights is not what was written"


def test_digests_of_earlier_versions_are_compared(folder: Path, tmp_path: Path) -> None:
    here, names = fs.LocalFileSystem(), ["weights", "proposer/a.json"]
    older = {n: {"bytes": len(c := (folder / n).read_bytes()), "sha256": sha256(c).hexdigest()} for n in names}
    assert kind_of(older) == "sha256"
    taken = transfer(here, str(folder), names, here, str(tmp_path / "copy"), kind=kind_of(older))
    assert difference(older, taken) is None
    (folder / FILE).unlink()
    write_inventory(folder, taken)  # theirs are taken over, what is new has its own
    assert {k for e in json.loads((folder / FILE).read_bytes())["files"].values() for k in e} >= {"sha256", "blake3"}
    check_inventory(folder)
    (folder / "weights").write_bytes(bytes(5000))
    with pytest.raises(DamagedError, match="the content of weights is not what was written"):
        check_inventory(folder)


def test_a_record_has_its_own_digest() -> None:
    record = sealed({"step": 3, "files": {}})
    assert is_sealed(record)
    assert is_sealed(json.loads(json.dumps(record, indent=2)))
    assert not is_sealed(record | {"step": 4})
    assert is_sealed({"step": 4})  # earlier versions wrote none
