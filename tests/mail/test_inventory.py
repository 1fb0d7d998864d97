"""A folder is whole if every file is what was written; any change of any file is found, and so is one of the list."""

import json
import random
from pathlib import Path

import pytest
from pyarrow import fs

from mail.errors import UserError
from mail.inventory import FILE, check_inventory, fault, is_sealed, sealed, write_inventory


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


def test_a_record_has_its_own_digest() -> None:
    record = sealed({"step": 3, "files": {}})
    assert is_sealed(record)
    assert is_sealed(json.loads(json.dumps(record, indent=2)))
    assert not is_sealed(record | {"step": 4})
    assert is_sealed({"step": 4})  # earlier versions wrote none
