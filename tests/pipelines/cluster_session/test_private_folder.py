"""The folder that a local Ray lives in: it goes with its process, also where that was killed."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster_session.private_folder import PrivateFolder

MAKE_ONE = """
import sys, time
from pipelines.cluster_session.private_folder import PrivateFolder
folder = PrivateFolder(sys.argv[1])
(folder.path / "ray").mkdir()
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def another(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A process that has a folder in `tmp_path`, and that folder."""
    with subprocess.Popen([sys.executable, "-c", MAKE_ONE, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


@pytest.mark.cluster
def test_the_next_one_sweeps_what_a_killed_process_left_and_nothing_else(
    tmp_path: Path, another: tuple[subprocess.Popen, Path]
) -> None:
    process, left = another
    unknown = tmp_path / "mail-ray-unknown"
    unknown.mkdir()
    mine = PrivateFolder(str(tmp_path))
    assert (left / "ray").is_dir()
    process.kill()
    process.wait()
    PrivateFolder(str(tmp_path)).close()
    assert not left.exists()
    assert mine.path.is_dir()
    assert unknown.is_dir()
    mine.close()


def test_kept_folders_stay(tmp_path: Path) -> None:
    kept, removed = PrivateFolder(str(tmp_path)), PrivateFolder(str(tmp_path))
    kept.close(keep=True)
    removed.close()
    PrivateFolder(str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == [kept.path]


@pytest.mark.parametrize(
    ("name", "own"), [("t", True), ("a b", False), ("t" * 40, False), ("größe", False), ("t;t", False)]
)
def test_a_temporary_folder_whose_name_ray_cannot_take_is_not_used(
    name: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        temporary = Path(above) / name
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        folder = PrivateFolder()
        assert (folder.path.parent == temporary) is own
        folder.close()
