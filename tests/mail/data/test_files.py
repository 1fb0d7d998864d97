"""Whether something can be written is known before it is computed; what is replaced stays until then."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

import pytest
from pyarrow import fs

from mail.data import files
from mail.errors import UserError
from tests.s3 import BUCKET, s3_server


def test_a_folder_that_is_not_there_yet_can_be_written_and_is_not_made(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a" / "b", need=1)
    files.check_file_writable(tmp_path / "a" / "b.json")
    assert not list(tmp_path.iterdir())


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out cannot be written: .*/file is a file, not a folder"):
        files.check_writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match=r"file/x\.json cannot be written: .*/file is a file, not a folder"):
        files.check_file_writable(tmp_path / "file" / "x.json")
    with pytest.raises(UserError, match="it is a folder, name a file"):
        files.check_file_writable(tmp_path)
    with pytest.raises(UserError, match="/proc/out cannot be written"):
        files.check_writable("/proc/out")


def test_too_little_space_is_said_with_figures(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"needs about .* GiB for checkpoints, .* GiB are free"):
        files.check_writable(tmp_path / "out", need=2 * free, what="checkpoints")


def test_an_input_is_never_a_target_whatever_its_name(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"photo")
    (tmp_path / "link.png").symlink_to(photo)
    os.link(photo, tmp_path / "twin.png")
    (tmp_path / "here").symlink_to(tmp_path, target_is_directory=True)
    for target in (photo, tmp_path / "link.png", tmp_path / "twin.png", tmp_path / "here" / "photo.png"):
        with pytest.raises(UserError, match=r"--out .*png would write over what --image reads"):
            files.check_apart({"--out": target}, {"--image": photo})
    files.check_apart({"--out": tmp_path / "mask.png"}, {"--image": photo})
    with pytest.raises(UserError, match="--out s3://b/x would write over what --data reads"):
        files.check_apart({"--out": "s3://b/x"}, {"--data": "S3://b/x/"})


def test_a_file_of_an_input_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").touch()
    with pytest.raises(UserError, match="would write over a file of --data"):
        files.check_apart({"--json": tmp_path / "store" / "store.json"}, {"--data": tmp_path / "store"})
    files.check_apart({"--json": tmp_path / "store" / "new.json"}, {"--data": tmp_path / "store"})


def test_two_outputs_are_two_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--json and --rle are one place"):
        files.check_apart({"--json": tmp_path / "x", "--rle": tmp_path / "a" / ".." / "x"}, {})


def test_what_cannot_be_written_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_bytes(*files.resolve("/dev/full"), b"x")
    assert caught.value.filename == "/dev/full"
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # not replaced by a file
    with pytest.raises(TypeError):
        files.write_bytes(*files.resolve(tmp_path / "there"), "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "there").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path: Path) -> None:
    files.write_bytes(*files.resolve(tmp_path / ("n" * 255)), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_stays_until_its_replacement_is_complete(remote: bool, tmp_path: Path) -> None:
    def content() -> dict[str, str]:
        with files.local_folder(target) as folder:
            return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}

    def killed() -> None:
        assert content() == {"a": "old", "only in the old": ""}
        raise KeyboardInterrupt

    old, new = tmp_path / "old", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
    (old / "only in the old").touch()
    (new / "b").mkdir()
    (new / "b" / "c").write_text("new")
    with s3_server() if remote else contextlib.nullcontext():
        target = f"s3://{BUCKET}/runs/model" if remote else str(tmp_path / "runs" / "model")
        where = files.resolve(target)
        files.replace_folder(old, *where)
        with pytest.raises(KeyboardInterrupt):
            files.replace_folder(new, *where, killed)
        assert content() == {"a": "old", "only in the old": ""}
        files.replace_folder(new, *where)
        assert content() == {"a": "new", "b/c": "new"}
        above = where[0].get_file_info(fs.FileSelector(where[1].rpartition("/")[0]))
        assert [info.base_name for info in above] == ["model"], "what was beside it is left"


def test_files_come_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("old")
    with contextlib.suppress(KeyboardInterrupt), files.written_together(tmp_path, "figures") as new:
        (new / "figures").write_text("new")
        raise KeyboardInterrupt
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"figures": "old"}
    with files.written_together(tmp_path, "figures") as new:
        (new / "figures").write_text("new")
        (new / "answers").write_text("new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"figures": "new", "answers": "new"}


def test_a_folder_is_on_its_disk_before_it_takes_the_place_of_another(tmp_path: Path, monkeypatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text(text)
    fsync, replace, flushed = os.fsync, os.replace, []
    monkeypatch.setattr(os, "fsync", lambda number: (flushed.append(os.fstat(number).st_ino), fsync(number))[1])

    def replaced(old, new) -> None:
        if Path(new) == target:
            there = [Path(old), Path(old, "deep"), Path(old, "deep", "file")]
            assert {p.stat().st_ino for p in there} <= set(flushed)
        replace(old, new)

    monkeypatch.setattr(os, "replace", replaced)
    files.replace_folder(source, fs.LocalFileSystem(), str(target))
    assert (target / "deep" / "file").read_text() == "new"
    assert flushed[-1] == tmp_path.stat().st_ino
