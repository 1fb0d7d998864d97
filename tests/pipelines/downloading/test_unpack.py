"""Other people's archives are unpacked into their folder and nowhere else."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.downloading.unpack import unpack
from tests.pipelines.small_disk import small_disk

FILES = {"refcoco/refs(unc).p": b"refs", "refcoco/instances.json": b"{}" * 1000, "empty": b""}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes], **more: object) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in more.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def found(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_everything_is_unpacked(tmp_path, make):
    unpack(make(tmp_path / "archive", FILES), tmp_path / "out")
    assert found(tmp_path / "out") == FILES


def test_what_was_unpacked_in_part_is_completed(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    unpack(archive, tmp_path / "out")
    (tmp_path / "out/refcoco/instances.json").write_bytes(b"{}")  # its writer was killed
    (tmp_path / "out/refcoco/refs(unc).p").unlink()
    untouched = (tmp_path / "out/empty").stat().st_mtime_ns
    unpack(archive, tmp_path / "out")
    assert found(tmp_path / "out") == FILES
    assert (tmp_path / "out/empty").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil"])
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    with pytest.raises(UserError, match=r"is refused: .*evil"):
        unpack(make(tmp_path / "archive", {"good": b"good", name: b"evil"}), tmp_path / "out")
    assert not (tmp_path / "evil").exists()
    assert "evil" not in {path.name for path in tmp_path.parent.rglob("*")}


@pytest.mark.parametrize("name", ["/etc/evil", "..\\evil", "C:evil"])
def test_absolute_names_and_those_of_other_systems_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="is refused: it holds"):
        unpack(zipped(tmp_path / "archive", {name: b"evil"}), tmp_path / "out")
    assert found(tmp_path / "out") == {}


def test_an_absolute_name_in_a_tar_archive_stays_inside(tmp_path):
    unpack(tarred(tmp_path / "archive", {str(tmp_path / "evil"): b"evil"}), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("out-of-here")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, str(tmp_path))
        archive.writestr("out-of-here/evil", b"evil")
    with pytest.raises(UserError, match="it holds 'out-of-here', a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    tarred(tmp_path / "a.tar", {"out-of-here": b""}, type=tarfile.SYMTYPE, linkname=str(tmp_path))
    with pytest.raises(UserError, match="is refused"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_damaged_archive_is_named(tmp_path, make):
    path = make(tmp_path / "archive", {"a": bytes(range(256)) * 500})
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"archive is (damaged|neither a zip nor a tar)"):
        unpack(path, tmp_path / "out")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(UserError, match="is neither a zip nor a tar archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path, make):
    archive = make(tmp_path / "archive", {"zeros": bytes(30 * 2**20)})  # some kB
    with small_disk(tmp_path / "disk", "5m") as disk:
        with pytest.raises(UserError, match=r"needs about .* GiB for what is in archive"):
            unpack(archive, disk.seen / "out")
        assert found(disk.seen) == {}
