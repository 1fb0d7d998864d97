"""The inventory of a folder: length and sha256 of every file, written last, so that what is read is what was written.

A power cut leaves files of the right length that are full of zeros, a disk loses a bit, a copy ends early. So a
checkpoint or a MODEL is whole only if its files are what its inventory says. Lengths are compared at once, contents
where they are about to be used. The inventory itself carries the digest of what it says.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyarrow import fs

from mail import json_text
from mail.errors import UserError

FILE = "inventory.json"
SEAL = "sha256"
_PIECE = 2**22  # bytes

Inventory = dict[str, dict[str, Any]]  # path in the folder -> {"bytes", "sha256"}


def take_inventory(folder: Path) -> Inventory:
    """The inventory of a local folder. Its files are on the disk then, and stay there when the power goes."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing and flushing release the GIL
        digests = list(pool.map(_flushed, paths))
    for place in {folder, *(p.parent for p in paths)}:
        flush(place)
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }


def write_inventory(folder: Path) -> None:
    """Completes a local folder that has none yet: what is changed in it afterwards is refused."""
    record = sealed({"format_version": 1, "files": take_inventory(folder)})
    with open(folder / FILE, "x") as file:
        file.write(json.dumps(record, indent=2))
        file.flush()
        os.fsync(file.fileno())
    flush(folder)


def check_inventory(folder: Path, names: tuple[str, ...] = (FILE,)) -> None:
    """Reads every file that a folder's inventory lists; a folder without one is not judged.

    Args:
        names: files that may hold the inventory; the first that is there does.

    Raises:
        UserError: a file is not there, or is not what was written.
    """
    for name in names:
        if not (folder / name).is_file():
            continue
        try:
            record = json_text.parse_object((folder / name).read_bytes())
        except ValueError:
            record = {}
        found = fault(record, fs.LocalFileSystem(), str(folder), contents=True)
        if found is not None:
            raise UserError(f"{folder} is damaged: {found}. Copy or export it again")
        return


def fault(record: Mapping[str, Any], filesystem: fs.FileSystem, root: str, *, contents: bool) -> str | None:
    """What is wrong with a folder, None if nothing is.

    Args:
        record: the JSON object that has the inventory as its `files`, or lengths alone, as earlier versions wrote it.
        contents: read and compare every file, not only its length.
    """
    listed = record.get("files")
    unsealed = SEAL not in record and isinstance(listed, dict) and any(isinstance(e, dict) for e in listed.values())
    if not isinstance(listed, dict) or unsealed or not is_sealed(record):
        return "the list of its files is not what was written"
    infos = filesystem.get_file_info([f"{root}/{name}" for name in listed])
    for info, (name, entry) in zip(infos, listed.items(), strict=True):
        length = entry if isinstance(entry, int) else entry["bytes"]
        if info.type != fs.FileType.File:
            return f"{name} is not there"
        if info.size != length:
            return f"{name} has {info.size} bytes instead of {length}"
    if not contents:
        return None
    known = {name: entry["sha256"] for name, entry in listed.items() if not isinstance(entry, int)}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: _digest(filesystem, f"{root}/{name}"), known)
        for (name, digest), now in zip(known.items(), found, strict=True):
            if now != digest:
                return f"the content of {name} is not what was written"
    return None


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own digest, so that a change of any of its values is found."""
    return {**record, SEAL: _seal(record)}


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether an object is what it was when it was sealed; one that never was is."""
    return SEAL not in record or record[SEAL] == _seal({k: v for k, v in record.items() if k != SEAL})


def flush_all(folder: Path) -> None:
    """Puts a local folder with all that is in it onto its disk, whoever wrote it."""
    paths = sorted(folder.rglob("*"))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(flush, paths))
    flush(folder)


def flush(folder: str | os.PathLike) -> None:
    """Puts a file, or the names in a local folder, onto its disk: what was renamed may else be lost with the power."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _flushed(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _digest(filesystem: fs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:  # as it is, .gz too
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
