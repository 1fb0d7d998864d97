"""Reads and writes what is at an address (`mail.addresses`), local or not, through pyarrow's file systems."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from mail import addresses
from mail.data import object_store
from mail.data.exchange import exchange
from mail.data.filling import begun, naming
from mail.errors import UserError
from mail.inventory import flush, flush_all, make_folder
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


def check_writable(
    folder: str | os.PathLike, need: int = 0, what: str = "", for_file: str | os.PathLike | None = None
) -> None:
    """Checks that files can be written to a local folder that need not be there yet; leaves no trace.

    Args:
        need: bytes that are going to be written, roughly. what: names them.
        for_file: what errors name, if it is one file.

    Raises:
        UserError: a file is in the way, it may not be written, or too little space is free.
    """
    filesystem, path = resolve(folder)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return
    above, named = path, for_file or folder
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise UserError(f"{named} cannot be written: {above} is a file, not a folder: choose another place")
    try:
        with tempfile.TemporaryFile(dir=above):
            free = shutil.disk_usage(above).free
    except OSError as error:
        raise UserError(
            f"{named} cannot be written ({error.strerror or error}): choose another place, or mend {above}"
        ) from None
    if free < need:
        raise UserError(
            f"{folder} needs about {need / 2**30:.1f} GiB for {what}, {free / 2**30:.1f} GiB are free on its disk: "
            "make room there, or choose another place"
        )


def check_file_writable(file: str | os.PathLike) -> None:
    """The same for a file, which may be there already."""
    if addresses.remote_path(file) is not None:
        return
    path = addresses.absolute(file)
    if os.path.isdir(path):
        raise UserError(f"{file} cannot be written: it is a folder, name a file")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise UserError(f"{file} cannot be written: it is write-protected, choose another place")
    if _is_plain(path):
        check_writable(os.path.dirname(path), for_file=file)


def check_apart(outputs: Mapping[str, str | os.PathLike], inputs: Mapping[str, str | os.PathLike]) -> None:
    """Checks that nothing that is read would be written over, whatever names it has (links, upper and lower case).

    Args:
        outputs: files and folders that are going to be written, by what errors call them.
        inputs: files and folders that are read, likewise; what is not there cannot be lost.

    Raises:
        UserError: an output is an input, a file in a folder that is an input, or another output.
    """
    read = {one: (what, place) for what, place in inputs.items() for one in _identities(place) if _is_there(place)}
    written: dict[object, str] = {}
    for name, output in outputs.items():
        own = _identities(output)
        for what, _ in (read[one] for one in own if one in read):
            raise UserError(f"{name} {output} would write over what {what} reads: choose another place")
        for what, place in (read[one] for one in _identities_of_folders(output) if one in read):
            if exists(*resolve(output)) and not is_folder(output):
                raise UserError(f"{name} {output} would write over a file of {what} {place}: choose another place")
        for one in own:
            if written.setdefault(one, name) != name:
                raise UserError(f"{written[one]} and {name} are one place, {output}: choose another for one of them")


def _is_there(place: str | os.PathLike) -> bool:
    """Whether there may be a file or folder that could be lost; a device keeps nothing."""
    path = addresses.absolute(place)
    return addresses.remote_path(place) is not None or os.path.isfile(path) or os.path.isdir(path)


def _identities(place: str | os.PathLike) -> set[object]:
    """What all names of one file or folder share: the path that links lead to, and the file system's own number."""
    if (key := addresses.remote_path(place)) is not None:
        return {("in an object store", key)}
    path = os.path.realpath(addresses.absolute(place))
    try:
        found = os.stat(path)
    except OSError:  # not there, or behind a folder that may not be looked into
        return {path}
    return {path, (found.st_dev, found.st_ino)}


def _identities_of_folders(place: str | os.PathLike) -> set[object]:
    """The same of all the folders that it is in."""
    if (key := addresses.remote_path(place)) is not None:
        return {("in an object store", str(folder)) for folder in PurePosixPath(key).parents}
    return set().union(*map(_identities, Path(os.path.realpath(addresses.absolute(place))).parents))


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
    """Writes a whole file; on a local disk under another name first, so that no reader sees half of it.

    A device or a pipe (/dev/stdout) is written to as it is.

    Raises:
        OSError: it cannot be written; nothing is left then of what was begun.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        target = Path(path)
        make_folder(target.parent)
        plain = _is_plain(path)
        partial = target.with_name(f".{uuid.uuid4().hex}.partial") if plain else target
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                if plain:
                    os.fsync(file.fileno())
            if plain:
                partial.replace(target)
                flush(target.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None  # a person knows nothing of the other name
        finally:
            if plain:
                partial.unlink(missing_ok=True)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def _is_plain(path: str) -> bool:
    """Whether a local path is a file, or free for one: no device and no pipe, which must not be replaced by a file."""
    return not os.path.exists(path) or os.path.isfile(path)


def copy_folder(folder: str | os.PathLike, filesystem: fs.FileSystem, path: str) -> None:
    """Copies a local folder into another file system (or the same); on a disk it is there in full afterwards."""
    with begun(path) if isinstance(filesystem, fs.LocalFileSystem) else contextlib.nullcontext():
        local = fs.LocalFileSystem()
        if isinstance(filesystem, fs.LocalFileSystem):
            make_folder(path)
        else:
            filesystem.create_dir(path, recursive=True)
        fs.copy_files(os.fspath(folder), path, source_filesystem=local, destination_filesystem=filesystem)
        if isinstance(filesystem, fs.LocalFileSystem):
            flush_all(Path(path))


def replace_folder(
    folder: str | os.PathLike, filesystem: fs.FileSystem, path: str, may: Callable[[], None] = lambda: None
) -> None:
    """Puts a copy of a local folder in the place of another one, which stays until the new one is complete beside it.

    On a disk the two change places by their names, in an object store object by object. What an earlier call left that
    was killed is cleared away; it has taken nothing away whose replacement was not there in full.

    Args:
        may: is asked before anything is replaced; raises if it must not be.
    """
    new, old = f"{path}.new", f"{path}.old"
    _delete_folder(filesystem, new)
    copy_folder(folder, filesystem, new)
    may()
    if isinstance(filesystem, fs.LocalFileSystem):
        if exists(filesystem, path) and exchange(new, path):
            old = new
        else:
            if exists(filesystem, path):
                _delete_folder(filesystem, old)
                os.replace(path, old)
            os.replace(new, path)
        flush(os.path.dirname(path))
    else:
        fs.copy_files(new, path, source_filesystem=filesystem, destination_filesystem=filesystem)
        names = {i.path.removeprefix(new) for i in filesystem.get_file_info(fs.FileSelector(new, recursive=True))}
        for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
            if info.type == fs.FileType.File and info.path.removeprefix(path) not in names:
                filesystem.delete_file(info.path)
        _delete_folder(filesystem, new)
    _delete_folder(filesystem, old)


@contextlib.contextmanager
def written_together(folder: Path, last: str, may: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """A place for files that take theirs in a local folder once the block has ended and all of them are there.

    Args:
        last: of the files, the one that says that the others are there. may: as of `replace_folder`.
    """
    new = folder / ".new"
    shutil.rmtree(new, ignore_errors=True)  # of one that was killed
    new.mkdir(parents=True)
    try:
        with naming(folder):
            yield new
        may()
        flush_all(new)
        for file in sorted(new.iterdir(), key=lambda file: file.name == last):
            if file.name == last:
                flush(folder)
            file.replace(folder / file.name)
        flush(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _delete_folder(filesystem: fs.FileSystem, path: str) -> None:
    if exists(filesystem, path):
        filesystem.delete_dir(path)


@contextlib.contextmanager
def local_folder(uri: str | os.PathLike) -> Iterator[Path]:
    """A folder as a local one: itself, or a copy of an `s3://` one that lasts as long as the `with` block."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as temporary, naming(temporary):
        fs.copy_files(path, temporary, source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        yield Path(temporary)


@contextlib.contextmanager
def filled_folder(uri: str | os.PathLike) -> Iterator[Path]:
    """A local folder to fill: itself, or one whose files are copied to the `s3://` one once the block has ended."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as temporary, naming(temporary):
        yield Path(temporary)
        copy_folder(temporary, filesystem, path)


def sha256_file(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
