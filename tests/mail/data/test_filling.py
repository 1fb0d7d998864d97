"""A disk that is full in the middle, a real one: the place is named, and nothing of what was begun is left."""

import subprocess
import sys
from pathlib import Path

import pytest

from mail.data.filling import naming
from mail.errors import full_disk
from tests.pipelines.small_disk import mounted

COPY = """
import sys
from pyarrow import fs
from mail.data import files
source, target = sys.argv[1:]
files.copy_folder(source + "/small", fs.LocalFileSystem(), target)
before = files.read_bytes(fs.LocalFileSystem(), target + "/a")
for write in (files.copy_folder, files.replace_folder):
    try:
        write(source + "/large", fs.LocalFileSystem(), target + ("/b" if write is files.copy_folder else ""))
    except OSError as error:
        print(error.errno, error.filename.removeprefix(target), error.strerror)
assert files.read_bytes(fs.LocalFileSystem(), target + "/a") == before
print(sorted(path.base_name for path in fs.LocalFileSystem().get_file_info(fs.FileSelector(sys.argv[2] + "/.."))))
"""


def test_of_a_copy_that_found_no_space_nothing_is_left(tmp_path: Path, repository: Path) -> None:
    for name, size in (("small", 1000), ("large", 2**21)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(bytes(size))
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*mounted(disk, "1m"), sys.executable, "-c", COPY, str(tmp_path), f"{disk}/there"]
    told = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == ["28 /b no space is left on its disk", "28 .new no space is left on its disk", "['there']"]


def test_a_full_disk_is_known_in_the_words_of_every_library(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space is left") as met, naming(tmp_path), open("/dev/full", "w") as file:
        file.write("a" * 100_000)
    assert met.value.filename == str(tmp_path)
    trace = "Traceback (most recent call last):\n  File ...\nOSError: [Errno 28] Error writing bytes to file"
    rust = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert all(full_disk(RuntimeError(text)) is not None for text in (trace, rust))
    assert full_disk(RuntimeError(f"{trace}\n\nTraceback (most recent call last):\nKeyError: 1")) is None
    assert full_disk(OSError(13, "Permission denied", "/out")) is None
