"""The file, or the folder of files, that holds somebody's expressions: local or `s3://`."""

import posixpath
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from mail import addresses
from mail.data import files
from mail.data.coco import CocoInstances
from mail.data.photos import PhotoFolder
from mail.data.problems import Problems
from mail.data.typed import json_value
from mail.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # of the files in a folder that are looked into


@dataclass
class SourceFile:
    """One file.

    Attributes:
        address: where it is.
        name: below the folder that was given; the file's own name if it was given itself.
        alone: whether it was given itself, so that messages need not name it.
    """

    address: str
    name: str
    data: bytes = field(repr=False)
    alone: bool = True

    @cached_property
    def json(self) -> Any:
        """The JSON value that the file is; ValueError says why it is none."""
        return json_value(self.data)

    def why_no_json(self) -> str:
        """Why a file that begins as JSON does is none; "" for others."""
        if not self.data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
            return ""
        try:
            json_value(self.data)
        except ValueError as error:
            return str(error)
        return ""

    def at(self, place: str) -> str:
        """A place in the file, for messages."""
        return place if self.alone else f"{self.name}, {place}"

    def photo_names(self, name: str) -> tuple[str, ...]:
        """The names, below a folder, of a photo or mask that the file names: beside the file, or as it is written."""
        folder = posixpath.dirname(self.name)
        return (posixpath.normpath(posixpath.join(folder, name)), name) if folder and name.strip() else (name,)


@dataclass
class Reading:
    """What the formats read with, and what they meet.

    Attributes:
        text_field: the name of the field with the sentence, where a person gave one.
        instances: the COCO file that ids of annotations are of.
        beside: the folder that the files are in, for the masks beside them.
        silent: objects that nothing is said about. unannotated: tasks that nobody has worked on.
    """

    beside: str
    text_field: str | None = None
    instances: CocoInstances | None = None
    problems: Problems = field(default_factory=Problems)
    silent: int = 0
    unannotated: int = 0

    @cached_property
    def folder(self) -> PhotoFolder:
        """Of the masks that lie beside the files."""
        return PhotoFolder(self.beside)

    def remarks(self) -> list[str]:
        """A sentence for everything that was left out because there was nothing to read."""
        found = []
        if self.silent:
            found.append(f"left out: {self.silent} objects that nothing is said about")
        if self.unannotated:
            found.append(f"left out: {self.unannotated} tasks that are not annotated")
        return found


def open_source(place: addresses.Place) -> tuple[list[SourceFile], str]:
    """The files of an address, and the folder that they are in.

    Raises:
        UserError: there is nothing, or it cannot be read.
    """
    address = addresses.absolute(place)
    filesystem, path = files.resolve(address)
    if files.is_folder(address):
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        paths = sorted(f.path for f in found if f.type == fs.FileType.File and _may_be_read(f.path, path))
        if not paths:
            raise UserError(f"{address} holds no file of expressions ({', '.join(SUFFIXES)})")
        names = [posixpath.relpath(p, path) for p in paths]
        return [
            SourceFile(addresses.join(address, name), name, _read(filesystem, p), len(paths) == 1)
            for name, p in zip(names, paths, strict=True)
        ], address
    return [SourceFile(address, posixpath.basename(path), _read(filesystem, path))], folder_of(address)


def folder_of(address: str) -> str:
    """The folder that a file is in."""
    return address.rpartition("/")[0] or "/"


def _may_be_read(path: str, folder: str) -> bool:
    parts = PurePosixPath(posixpath.relpath(path, folder)).parts
    return path.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _read(filesystem: fs.FileSystem, path: str) -> bytes:
    try:
        return files.read_bytes(filesystem, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
