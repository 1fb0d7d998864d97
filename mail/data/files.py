"""Reads and writes what is at an address (`mail.addresses`), local or not, through pyarrow's file systems."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from mail import addresses
from mail.data import object_store
from mail.errors import UserError
from mail.waiting import until_answered

T = TypeVar("T")


def resolve(uri: str | os.PathLike) -> tuple[fs.FileSystem, str]:
    """File system and path of an address (`mail.data.object_store` for S3).

    Raises:
        UserError: it is no address, or its object store does not answer, or has no such bucket.
    """
    remote = addresses.remote_path(uri)
    if remote is not None:
        return object_store.open_bucket(remote.partition("/")[0]), remote
    return fs.LocalFileSystem(), addresses.absolute(uri)


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def check_writable(folder: str | os.PathLike, need: int = 0, what: str = "") -> None:
    """Checks that files can be written to a local folder that need not be there yet; leaves no trace.

    Args:
        need: bytes that are going to be written, roughly. what: names them.

    Raises:
        UserError: a file is in the way, it may not be written, or too little space is free.
    """
    filesystem, path = resolve(folder)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return
    above = path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise UserError(f"{folder} cannot be written: {above} is a file, not a folder: choose another place")
    try:
        with tempfile.TemporaryFile(dir=above):
            free = shutil.disk_usage(above).free
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): choose another place, or mend {above}"
        ) from None
    if free < need:
        raise UserError(
            f"{folder} needs about {need / 2**30:.1f} GiB for {what}, {free / 2**30:.1f} GiB are free on its disk: "
            "make room there, or choose another place"
        )


def check_file_writable(file: str | os.PathLike) -> None:
    """The same for a file, which may be there already."""
    path = addresses.absolute(file)
    if os.path.isdir(path):
        raise UserError(f"{file} cannot be written: it is a folder, name a file")
    check_writable(os.path.dirname(path))


def is_folder(uri: str | os.PathLike) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type == fs.FileType.Directory


def persistently(read: Callable[[], T]) -> T:
    """What `read` returns; it is called again, with back-off, where an object store answered with a passing error.

    Arrow's S3 client retries by itself, but not where the text of the error is longer than the piece that it asked for.
    """
    return until_answered(read, lambda error: bool(object_store.PASSING.search(str(error))), "the object store")


def read_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    def read() -> bytes:
        with filesystem.open_input_stream(path) as stream:
            return stream.read()

    return persistently(read)


def write_bytes(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Writes a whole file; on a local disk under another name first, so that no reader sees half of it."""
    if isinstance(filesystem, fs.LocalFileSystem):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def copy_folder(folder: str | os.PathLike, filesystem: fs.FileSystem, path: str) -> None:
    """Copies a local folder into another file system (or the same)."""
    filesystem.create_dir(path, recursive=True)
    fs.copy_files(os.fspath(folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)


@contextlib.contextmanager
def local_folder(uri: str | os.PathLike) -> Iterator[Path]:
    """A folder as a local one: itself, or a copy of an `s3://` one that lasts as long as the `with` block."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as temporary:
        fs.copy_files(path, temporary, source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        yield Path(temporary)


def sha256_file(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
