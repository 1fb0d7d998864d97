"""The inventory of a folder: length and digest of every file, written last, so that what is read is what was written.

A power cut leaves files of the right length that are full of zeros, a disk loses a bit, a copy ends early. So a
checkpoint or a MODEL is whole only if its files are what its inventory says. Lengths are compared at once, contents
while they are loaded: no file is read a second time for its digest where that can be helped. The digest is BLAKE3;
sha256, which earlier versions wrote, is read as well. The inventory itself carries the digest of what it says.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3
from pyarrow import fs

from mail import json_text
from mail.errors import UserError

FILE = "inventory.json"
SEAL = "sha256"
_PIECE = 2**24  # bytes; shorter ones cost a loading from the disk more
_AHEAD = 2**20  # bytes that Linux is asked to read on at once, while the piece before them is digested
_SMALL = 2**22  # bytes; what tells how much memory to take is never longer, and is compared before it is looked at

Inventory = dict[str, dict[str, Any]]  # path in the folder -> {"bytes", kind of the digest: digest}

DIGEST = "blake3"
_DIGESTS: dict[str, Callable[[], Any]] = {DIGEST: lambda: blake3(max_threads=blake3.AUTO), "sha256": hashlib.sha256}


class DamagedError(UserError):
    """What is read is not what was written. `fault` says what is wrong."""

    def __init__(self, folder: object, fault: str, remedy: str):
        super().__init__(f"{folder} is damaged: {fault}. {remedy}")
        self.fault = fault


def take_inventory(folder: Path, known: Inventory | None = None) -> Inventory:
    """The inventory of a local folder. Its files are on the disk then, and stay there when the power goes.

    Args:
        known: what `transfer` found of some of its files, which are not read again.
    """
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    taken = dict(known or {})
    with _pool() as pool:  # hashing and flushing release the GIL
        flushed = pool.map(lambda name: flush(folder / name), names)
        unknown = [name for name in names if name not in taken]
        taken |= zip(unknown, pool.map(lambda name: _entry(folder / name), unknown), strict=True)
        list(flushed)
    for place in {folder, *((folder / name).parent for name in names)}:
        flush(place)
    return {name: taken[name] for name in names}


def write_inventory(folder: Path, known: Inventory | None = None) -> None:
    """Completes a local folder that has none yet: what is changed in it afterwards is refused. `known`: see above."""
    record = sealed({"format_version": 1, "files": take_inventory(folder, known)})
    with open(folder / FILE, "x") as file:
        file.write(json.dumps(record, indent=2))
        file.flush()
        os.fsync(file.fileno())
    flush(folder)


def transfer(
    source: fs.FileSystem,
    path: str,
    names: Iterable[str],
    target: fs.FileSystem,
    to: str,
    *,
    move: bool = False,
    kind: str = DIGEST,
) -> Inventory:
    """Takes files of a folder to another place, and their digests on the way.

    Args:
        names: their paths in the folder `path` of `source`. to: the folder in `target`.
        move: where both are on one disk files change their names only; they are left where they were otherwise.
        kind: of the digests, as `kind_of` tells it of a list that they are to be compared with.

    Returns:
        The inventory of what was read. On a disk the files are there to stay, and so are their folders.
    """
    listed, local = list(names), isinstance(target, fs.LocalFileSystem)
    if local:
        for folder in {to, *(os.path.dirname(f"{to}/{name}") for name in listed)}:
            make_folder(folder)
    move = move and local and isinstance(source, fs.LocalFileSystem) and os.stat(path).st_dev == os.stat(to).st_dev

    def take(name: str) -> dict[str, Any]:
        if move:
            os.replace(f"{path}/{name}", f"{to}/{name}")
            flushed = flushing.submit(flush, f"{to}/{name}")  # the disk works while a core does
            entry = _entry(Path(to, name), kind)
            flushed.result()
            return entry
        digest, length = _DIGESTS[kind](), 0
        with (
            source.open_input_stream(f"{path}/{name}", compression=None) as stream,  # as it is, .gz too
            target.open_output_stream(f"{to}/{name}", compression=None) as out,
        ):
            while piece := stream.read(_PIECE):
                out.write(piece)
                digest.update(piece)
                length += len(piece)
        if local:
            flush(f"{to}/{name}")
        return {"bytes": length, kind: digest.hexdigest()}

    with _pool() as pool, _pool() as flushing:
        taken = dict(zip(listed, pool.map(take, listed), strict=True))
    if local:
        for folder in {to, *(os.path.dirname(f"{to}/{name}") for name in listed)}:
            flush(folder)
    return taken


def check_inventory(folder: Path, names: tuple[str, ...] = (FILE,)) -> None:
    """Reads every file that a folder's inventory lists; a folder without one is not judged.

    Args:
        names: files that may hold the inventory; the first that is there does.

    Raises:
        DamagedError: a file is not there, or is not what was written.
    """
    with compared(folder, names):
        pass


@contextlib.contextmanager
def compared(folder: Path, names: tuple[str, ...] = (FILE,), remedy: str = "Copy or export it again") -> Iterator[None]:
    """The same while a block loads the files; what it made of them must not be used before its end.

    The short files, which say what the long ones hold, are compared before; the long ones beside the block. Whatever
    the block itself raises over a damaged file, the damage is what is told.

    Args:
        remedy: what a person can do.
    """
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        yield
        return
    try:
        record = json_text.parse_object(found.read_bytes())
    except ValueError:
        record = {}
    here, root = fs.LocalFileSystem(), str(folder)
    wrong = fault(record, here, root, contents=False)
    if wrong is not None:
        raise DamagedError(folder, wrong, remedy)
    listed = {name: entry for name, entry in record["files"].items() if not isinstance(entry, int)}
    large = {name: entry for name, entry in listed.items() if entry["bytes"] > _SMALL}
    with _pool() as pool:
        comparing = [pool.submit(_other, here, root, {name: entry}) for name, entry in _longest_first(large)]
        try:
            wrong = _other(here, root, {name: entry for name, entry in listed.items() if name not in large})
            if wrong is None:
                yield
        finally:
            wrong = wrong or next(filter(None, (other.result() for other in comparing)), None)
            if wrong is not None:
                raise DamagedError(folder, wrong, remedy)


def fault(record: Mapping[str, Any], filesystem: fs.FileSystem, root: str, *, contents: bool) -> str | None:
    """What is wrong with a folder, None if nothing is.

    Args:
        record: the JSON object that has the inventory as its `files`, or lengths alone, as earlier versions wrote it.
        contents: read and compare every file, not only its length.
    """
    listed = record.get("files")
    unsealed = SEAL not in record and isinstance(listed, dict) and not all(type(e) is int for e in listed.values())
    if not isinstance(listed, dict) or unsealed or not is_sealed(record):
        return "the list of its files is not what was written"
    infos = filesystem.get_file_info([f"{root}/{name}" for name in listed])
    for info, (name, entry) in zip(infos, listed.items(), strict=True):
        length = entry if isinstance(entry, int) else entry["bytes"]
        if info.type != fs.FileType.File:
            return f"{name} is not there"
        if info.size != length:
            return f"{name} has {info.size} bytes instead of {length}"
    known = {name: entry for name, entry in listed.items() if not isinstance(entry, int)}
    return _other(filesystem, root, known) if contents else None


def kind_of(listed: Mapping[str, Any]) -> str:
    """Kind of the digests of a folder's list."""
    return next((k for e in listed.values() if not isinstance(e, int) for k in _DIGESTS if k in e), DIGEST)


def difference(listed: Mapping[str, Any], taken: Inventory) -> str | None:
    """What of the files that `transfer` took is not what a whole folder's list says, None if nothing."""
    for name, entry in taken.items():
        known = listed[name]
        if entry["bytes"] != (known if isinstance(known, int) else known["bytes"]):
            return f"{name} has another length"
        if not isinstance(known, int) and entry != known:
            return f"the content of {name} is not what was written"
    return None


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own digest, so that a change of any of its values is found."""
    return {**record, SEAL: _seal(record)}


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Whether an object is what it was when it was sealed; one that never was is."""
    return SEAL not in record or record[SEAL] == _seal({k: v for k, v in record.items() if k != SEAL})


def make_folder(path: str | os.PathLike) -> None:
    """A local folder whose name, and those of the folders that it is in, are on the disk."""
    missing, place = [], Path(path)
    while not place.is_dir():
        missing.append(place)
        place = place.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def flush_all(folder: Path) -> None:
    """Puts a local folder with all that is in it onto its disk, whoever wrote it."""
    paths = sorted(folder.rglob("*"))
    with _pool() as pool:
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


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1))


def _longest_first(entries: Inventory) -> list[tuple[str, dict[str, Any]]]:
    return sorted(entries.items(), key=lambda entry: -entry[1]["bytes"])


def _entry(path: Path, kind: str = DIGEST) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, kind: _digest(fs.LocalFileSystem(), str(path), kind)}


def _other(filesystem: fs.FileSystem, root: str, entries: Inventory) -> str | None:
    """What is wrong with the first of some files whose content is not what was written."""

    def look(listed: tuple[str, dict[str, Any]]) -> str | None:
        name, entry = listed
        try:
            kind = kind_of({name: entry})
            same = _digest(filesystem, f"{root}/{name}", kind) == entry.get(kind)
        except OSError as error:
            if error.errno != errno.EIO:  # only a disk that does not give back what it holds is a damage
                raise
            return f"{name} cannot be read ({error.strerror})"
        return None if same else f"the content of {name} is not what was written"

    with _pool() as pool:
        found = list(pool.map(look, _longest_first(entries)))
    return next(filter(None, found), None)


def _digest(filesystem: fs.FileSystem, path: str, kind: str) -> str:
    digest = _DIGESTS[kind]()
    if isinstance(filesystem, fs.LocalFileSystem):
        buffer = memoryview(bytearray(_PIECE))
        with open(path, "rb", buffering=0) as file:
            while length := file.readinto(buffer):
                for part in range(file.tell(), file.tell() + _PIECE, _AHEAD) if hasattr(os, "posix_fadvise") else ():
                    os.posix_fadvise(file.fileno(), part, _AHEAD, os.POSIX_FADV_WILLNEED)
                digest.update(buffer[:length])
    else:
        with filesystem.open_input_stream(path, compression=None) as stream:  # as it is, .gz too
            while piece := stream.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()
