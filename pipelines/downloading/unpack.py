"""Unpacks archives that somebody else made: into their folder and nowhere else, and no more than fits."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from mail.data import files
from mail.data.photos import safe_name
from mail.errors import UserError

DAMAGED = (zipfile.BadZipFile, tarfile.ReadError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


def unpack(archive: Path, folder: Path, alive: Callable[[], None] = lambda: None) -> None:
    """Unpacks a zip or tar archive into a folder; files of the right length that are there already are left alone.

    Args:
        alive: is called now and then.

    Raises:
        UserError: it is no archive, is damaged, has a name that leads out of the folder, or does not fit onto the disk.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder, alive)
        elif tarfile.is_tarfile(archive):
            _untar(archive, folder)
        else:
            raise UserError(f"{archive} is neither a zip nor a tar archive: delete it and give the command again")
    except tarfile.FilterError as error:
        raise UserError(f"{archive} is refused: {error}") from None
    except (*DAMAGED, RuntimeError) as error:  # RuntimeError: it wants a password
        raise UserError(f"{archive} is damaged ({error}): delete it and give the command again") from None


def _unzip(archive: Path, folder: Path, alive: Callable[[], None]) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        places = [folder / _inside(archive, member) for member in members]
        files.check_writable(folder, sum(member.file_size for member in members), f"what is in {archive.name}")
        for member, place in zip(members, places, strict=True):
            alive()
            if place.is_file() and place.stat().st_size == member.file_size:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, open(place, "wb") as target:
                shutil.copyfileobj(source, target, 2**20)


def _inside(archive: Path, member: zipfile.ZipInfo) -> str:
    """The name of a member, if it leads to nothing outside."""
    try:
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError("a link")
        if "\\" in member.filename or ":" in member.filename:
            raise ValueError("with a backslash or a colon")
        return safe_name(member.filename)
    except ValueError as error:
        raise UserError(f"{archive} is refused: it holds {member.filename!r}, {error}") from None


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        files.check_writable(folder, sum(member.size for member in members), f"what is in {archive.name}")
        folder.mkdir(parents=True, exist_ok=True)
        opened.extractall(folder, members, filter="data")
