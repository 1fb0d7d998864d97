"""The photos that somebody else's file names: the one place where such a name becomes a path.

A name is looked up inside of its folder and nowhere else: never above it, never at an absolute path, never nothing. A
name that fits no file is tried in the spellings that other systems write (backslashes, an address, `%20`, accents
composed or not), only to be able to say what would fit: which photo is meant is for the person to decide.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pyarrow import fs

from mail import addresses
from mail.data import files
from mail.data.problems import Problems
from mail.errors import UserError

HINTS = 3  # names that get one: as many as a message shows


@dataclass(frozen=True, slots=True)
class RemotePhoto:
    """A photo's file in an object store, which is read as a local one is."""

    filesystem: fs.FileSystem
    path: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    def read_bytes(self) -> bytes:
        return files.read_bytes(self.filesystem, self.path)

    def __str__(self) -> str:
        return addresses.of_object(self.path)


PhotoFile = Path | RemotePhoto


def bytes_of(photo: PhotoFile) -> int:
    """The length of a photo's file; 0 where it is gone, which is told when it is read."""
    if isinstance(photo, RemotePhoto):
        return photo.size
    try:
        return photo.stat().st_size
    except OSError:
        return 0


@dataclass
class PhotoFolder:
    """A folder of photos, local or `s3://`.

    Attributes:
        where: its address.
        of: the file that names the photos, for messages.

    Raises:
        UserError: there is no such folder.
    """

    where: str
    of: object = ""
    _filesystem: fs.FileSystem = field(init=False, repr=False)
    _root: str = field(init=False, repr=False)
    _listed: dict[str, int] | None = field(default=None, init=False, repr=False)  # path -> bytes

    def __post_init__(self) -> None:
        self.where = addresses.absolute(self.where)
        self._filesystem, self._root = files.resolve(self.where)
        if self._filesystem.get_file_info(self._root).type != fs.FileType.Directory:
            raise UserError(f"there is no folder {self.where}: --images is where the photos of {self.of} are")

    def path(self, name: str) -> str:
        """The path of a name in the folder's file system; ValueError where the name leads to nothing inside of it."""
        return f"{self._root}/{safe_name(name)}"

    def read(self, name: str) -> bytes:
        """What is in a photo's file; FileNotFoundError if there is none inside of the folder."""
        if not self.has(name):
            raise FileNotFoundError(name)
        return files.read_bytes(self._filesystem, self.path(name))

    def has(self, name: str) -> bool:
        """Whether there is such a file inside of the folder."""
        try:
            path = self.path(name)
            if isinstance(self._filesystem, fs.LocalFileSystem):
                return os.path.isfile(path)
        except ValueError:  # a name that no photo can have
            return False
        return path in self._listing()

    def photo(self, name: str) -> "PhotoFile":
        """The file of a name that there is one of."""
        path = self.path(name)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            return Path(path)
        return RemotePhoto(self._filesystem, path, self._listing()[path])

    def _listing(self) -> dict[str, int]:
        if self._listed is None:  # one listing instead of a request a photo
            found = self._filesystem.get_file_info(fs.FileSelector(self._root, recursive=True))
            self._listed = {file.path: file.size for file in found if file.type == fs.FileType.File}
        return self._listed

    def find(self, names: Iterable[str], problems: Problems) -> list[str]:
        """Those of the names that there is a photo of, each once; the others become problems, the first with a hint."""
        found, missing = [], 0
        for name in dict.fromkeys(names):
            if self.has(name):
                found.append(name)
                continue
            missing += 1
            problems.add(f"images are missing in {self.where}", self.explain(name) if missing <= HINTS else name)
        return found

    def explain(self, name: str) -> str:
        """A name that has no photo, with the reason or the spelling that would fit."""
        if not name.strip():
            return f"{name!r}, an empty name"
        near = next((other for other in _spellings(name) if other != name and self.has(other)), None)
        if near is not None:
            return f"{name}, but there is {near}: write it so"
        try:
            safe_name(name)
        except ValueError as error:
            return f"{name}, {error}"
        return name


def find_photos(folder: Path, names: Iterable[str], of: object, problems: Problems) -> dict[str, Path]:
    """The photos of a local folder that an untrusted index `of` something names, by name; see `PhotoFolder.find`."""
    photos = PhotoFolder(str(folder), of)
    return {name: Path(photos.path(name)) for name in photos.find(names, problems)}


def safe_name(name: str) -> str:
    """A relative name without `.` and `//`; ValueError if it is empty, absolute, or leads up."""
    pure = PurePosixPath(name)
    if not name.strip() or not pure.parts:
        raise ValueError("an empty name")
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise ValueError("which leads out of the folder")
    return str(pure)


def _spellings(name: str) -> Iterator[str]:
    """What a name may have been on the system that wrote it."""
    slashed = PurePosixPath(name.replace("\\", "/"))
    for plain in (str(slashed), slashed.name):
        for decoded in (plain, unquote(plain)):
            yield decoded
            for form in ("NFC", "NFD"):
                yield unicodedata.normalize(form, decoded)
