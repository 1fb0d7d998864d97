"""Whether something can be written is known before it is computed, and asking leaves no trace."""

import shutil
from pathlib import Path

import pytest

from mail.data import files
from mail.errors import UserError


def test_a_folder_that_is_not_there_yet_can_be_written_and_is_not_made(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a" / "b", need=1)
    files.check_file_writable(tmp_path / "a" / "b.json")
    assert not list(tmp_path.iterdir())


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out cannot be written: .*/file is a file, not a folder"):
        files.check_writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match="it is a folder, name a file"):
        files.check_file_writable(tmp_path)
    with pytest.raises(UserError, match="/proc/out cannot be written"):
        files.check_writable("/proc/out")


def test_too_little_space_is_said_with_figures(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"needs about .* GiB for checkpoints, .* GiB are free"):
        files.check_writable(tmp_path / "out", need=2 * free, what="checkpoints")
