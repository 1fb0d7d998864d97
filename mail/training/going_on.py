"""From which checkpoint of a run is gone on: the newest of which every file is what was written.

One that is damaged is told and put aside: its manifest has another name then, and it counts no longer. A file is read
once, for its digest and for what is made of it.
"""

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from mail.data import files
from mail.inventory import DamagedError, Inventory, compared, difference, kind_of, transfer
from mail.training.checkpoint import ASIDE, MANIFEST, Saved, address_below, find_best, judge, scan

T = TypeVar("T")


def find_complete(uri: str, tell: Callable[[str], None]) -> Saved | None:
    """The newest checkpoint of which every file has the length that was written; reads none.

    Args:
        tell: called with a line for each that does not count.
    """
    return next(_newest_first(uri, tell), None)


def find_whole(uri: str, tell: Callable[[str], None]) -> Saved | None:
    """The same, of which every file is what was written; reads them all."""
    found = load_newest(uri, lambda folder: None, tell)
    return None if found is None else found[0]


def find_best_whole(uri: str, tell: Callable[[str], None]) -> Saved | None:
    """The same of the best one, as `find_best` has it."""
    while (best := find_best(uri)) is not None:
        try:
            load_checkpoint(best.address, lambda folder: None)
        except DamagedError as error:
            _put_aside(best.address, error.fault, tell)
        else:
            break
    return best


def load_newest(uri: str, load: Callable[[Path], T], tell: Callable[[str], None]) -> tuple[Saved, T] | None:
    """The same, and what `load` makes of its folder: the files are compared while they are loaded."""
    damaged = False
    for saved in _newest_first(uri, tell):
        try:
            loaded = load_checkpoint(saved.address, load)
        except DamagedError as error:
            damaged = True
            _put_aside(saved.address, error.fault, tell)
            continue
        if damaged:
            tell(f"going on from {saved.address}")
        return saved, loaded
    return None


def load_checkpoint(address: str, load: Callable[[Path], T]) -> T:
    """What `load` makes of a checkpoint's folder.

    Raises:
        DamagedError: a file is not what was written; what was made of it is not returned.
    """
    with files.local_folder(address) as folder, compared(folder, (MANIFEST,), "Resume from an earlier checkpoint"):
        return load(folder)


def take_model(saved: Saved, leave: Collection[str], folder: Path, tell: Callable[[str], None]) -> Inventory | None:
    """Copies a model out of a checkpoint; reads only that.

    Args:
        leave: files that are not the model's. folder: local, does not exist.

    Returns:
        The inventory of the copy; None where the checkpoint is damaged: it is put aside then.
    """
    filesystem, path = files.resolve(saved.address)
    manifest, wrong = judge(filesystem, path)
    if wrong is None:
        source = (filesystem, path, [name for name in manifest["files"] if name not in leave])
        kind = kind_of(manifest["files"])
        taken = files.persistently(lambda: transfer(*source, fs.LocalFileSystem(), str(folder), kind=kind))
        if (wrong := difference(manifest["files"], taken)) is None:
            return taken
        shutil.rmtree(folder)
    _put_aside(saved.address, wrong, tell)
    return None


def _newest_first(uri: str, tell: Callable[[str], None]) -> Iterator[Saved]:
    """Complete checkpoints, one at a time; what is newer and is none is told, and put aside."""
    filesystem, root = files.resolve(uri)
    complete, incomplete = scan(uri)
    below = sorted(incomplete, reverse=True)
    for saved in [*(saved for saved, _ in complete), None]:
        while below and (saved is None or below[0][0] > saved.step):
            _, other = below.pop(0)
            address = address_below(uri, root, other)
            if files.exists(filesystem, f"{other}/{MANIFEST}"):
                if wrong := judge(filesystem, other)[1]:
                    _put_aside(address, wrong, tell)
            elif saved is not None and not files.exists(filesystem, f"{other}/{ASIDE}"):
                tell(f"{address} is no whole checkpoint: passed over")
        if saved is not None:
            yield saved


def _put_aside(address: str, wrong: str, tell: Callable[[str], None]) -> None:
    filesystem, path = files.resolve(address)
    tell(f"checkpoint {address} is damaged ({wrong}): put aside")
    if files.exists(filesystem, f"{path}/{MANIFEST}"):
        filesystem.move(f"{path}/{MANIFEST}", f"{path}/{ASIDE}")
