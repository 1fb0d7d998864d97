"""`prepare NAME --download DIR`, from nothing to a data store, against a real server."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mail.data.sets import DATA_SETS
from mail.data.sets.remote import RemoteFile
from mail.data.store import DataStore
from mail.errors import UserError
from pipelines.__main__ import main
from pipelines.downloading import download as downloading
from pipelines.downloading.download import download
from tests.mail.data.sets.test_refer_parquet import as_published, write_references
from tests.pipelines.downloading.file_server import FileServer
from tests.published import Published

SPLITS = ("train", "val", "testA", "testB")


def archive_of(folder: Path, *names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for file in sorted(file for name in names for file in (folder / name).rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder))
    return out.getvalue()


def publish(server: FileServer, root: Path) -> Published:
    """A small RefCOCO in the archives in which the real one is published."""
    data = as_published(root, "refcoco", "unc", SPLITS)
    server.contents["refcoco.zip"] = archive_of(root, "refcoco")
    server.contents["train2014.zip"] = archive_of(root / "images", "train2014")
    return data


def arguments(server: FileServer, folder: Path, *more: str) -> list[str]:
    places = ["--download", str(folder / "files"), "--mirror", server.address, "--out", str(folder / "store")]
    return ["prepare", "refcoco", *places, *more]


def test_from_nothing_to_the_store_of_the_same_files(server, tmp_path, capsys):
    publish(server, tmp_path / "refer")
    assert main(arguments(server, tmp_path)) == 0
    err = capsys.readouterr().err
    assert f"from {server.address}/train2014.zip, sha256" in err
    assert "(NOT the published file)" in err
    assert "(nobody published one: written down)" in err
    assert "every photo keeps the Flickr licence" in err
    assert main(["prepare", "refcoco", "--root", str(tmp_path / "refer"), "--out", str(tmp_path / "other")]) == 0
    assert DataStore(tmp_path / "store").digest == DataStore(tmp_path / "other").digest
    record = json.loads((tmp_path / "files/downloads.json").read_text())
    assert record["refcoco.zip"]["bytes"] == len(server.contents["refcoco.zip"])
    assert record["train2014.zip"]["unpacked"] is True


def test_what_is_there_is_not_fetched_again(server, tmp_path, capsys):
    publish(server, tmp_path / "refer")
    assert main(arguments(server, tmp_path)) == 0
    asked = len(server.asked)
    (tmp_path / "files/train2014.zip").unlink()  # a person may want its room
    (tmp_path / "store/store.json").unlink()
    assert main(arguments(server, tmp_path)) == 0
    assert len(server.asked) == asked
    assert "images/train2014 is there already" in capsys.readouterr().err


def test_files_of_a_person_are_used_as_they_are(server, tmp_path):
    publish(server, tmp_path / "files")
    assert main(arguments(server, tmp_path)) == 0
    assert server.asked == []


def test_photos_that_are_elsewhere_are_not_fetched(server, tmp_path):
    data = publish(server, tmp_path / "refer")
    assert main(arguments(server, tmp_path, "--images", str(data.images_folder))) == 0
    assert [path for path, _ in server.asked] == ["refcoco.zip"]


def test_unpacking_that_was_killed_is_gone_on_with(server, tmp_path):
    publish(server, tmp_path / "refer")
    assert main(arguments(server, tmp_path)) == 0
    record = tmp_path / "files/downloads.json"
    record.write_text(record.read_text().replace('"unpacked": true', '"unpacked": false'))
    next((tmp_path / "files/images/train2014").iterdir()).unlink()
    (tmp_path / "store/store.json").unlink()
    asked = len(server.asked)
    assert main(arguments(server, tmp_path)) == 0
    assert len(server.asked) == asked


def test_strict_refuses_a_mirrors_own_files(server, tmp_path, capsys):
    publish(server, tmp_path / "refer")
    assert main(arguments(server, tmp_path, "--strict")) == 2
    assert "train2014.zip is not the published file: sha256 ede4087e640b" in capsys.readouterr().err
    assert not (tmp_path / "store/store.json").exists()
    assert main(arguments(server, tmp_path)) == 0
    (tmp_path / "store/store.json").unlink()
    assert main(arguments(server, tmp_path, "--strict")) == 2
    assert "train2014.zip came from a mirror and is not the published file" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_fetched_from_where(server, tmp_path, capsys):
    assert main(arguments(server, tmp_path, "--dry-run")) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["downloads"][1]["file"] == "train2014.zip"
    assert plan["downloads"][1]["from"][:2] == [server.address, "http://images.cocodataset.org/zips/train2014.zip"]
    assert plan["downloads"][1]["bytes"] == 13510573713
    assert server.asked == []
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --root, the folder of the files, or --download"),
        (["--root", "R", "--download", "D"], "give --root, the folder of the files, or --download"),
        (["--root", ".", "--mirror", "http://localhost"], "it must be an http(s) address, and goes with --download"),
        (["--download", "D", "--mirror", "ftp://localhost"], "it must be an http(s) address"),
        (["--download", "D", "--mirror", "http://me:secret@h/"], "--mirror http://***@h/ holds a secret"),
    ],
)
@pytest.mark.parametrize("name", ["refcoco", "refcoco-joint"])
def test_options_that_do_not_go_together_are_named(tmp_path, capsys, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", name, "--out", "store", *options]) == 2
    assert message in capsys.readouterr().err


def test_what_a_person_has_to_fetch_is_one_line_and_the_rest_is_there(server, tmp_path):
    server.contents["b.json"] = b"{}"
    by_hand = RemoteFile(name="a.json", gives="a.json", by_hand="agree to its licence at https://example.org: get it")
    remote = [by_hand, RemoteFile(name="b.json", addresses=(f"{server.address}/b.json",), gives="b.json")]
    with pytest.raises(UserError, match=r"a\.json is not for a program to fetch: agree to its licence .*put it there"):
        download(remote, tmp_path)
    assert (tmp_path / "b.json").read_bytes() == b"{}"
    (tmp_path / "a.json").write_text("{}")
    download(remote, tmp_path)
    assert len(server.asked) == 1


def test_a_mirror_in_another_form_does_where_nobody_has_the_archive(server, tmp_path):
    data = as_published(tmp_path / "refer", "refcoco", "unc", SPLITS)
    write_references(tmp_path / "hub", data.refs, data.instances)
    instead = []
    for file in (tmp_path / "hub").iterdir():
        server.contents[file.name] = file.read_bytes()
        name = f"refcoco-parquet/{file.name.partition('-')[0]}.parquet"
        instead.append(RemoteFile(name=name, addresses=(f"{server.address}/{file.name}",), gives=name))
    [annotations, _] = DATA_SETS["refcoco"].remote
    gone = dataclasses.replace(annotations, addresses=(f"{server.address}/refcoco.zip",), instead=tuple(instead))
    download([gone], tmp_path / "files")
    found = DATA_SETS["refcoco"].open(tmp_path / "files", "unc", data.images_folder)
    ours = DATA_SETS["refcoco"].open(tmp_path / "refer", "unc")
    digests = [x.write_store(str(tmp_path / out))[0].digest for x, out in ((found, "a"), (ours, "b"))]
    assert digests[0] == digests[1]
    asked = len(server.asked)
    download([gone], tmp_path / "files")
    assert len(server.asked) == asked


def test_a_file_that_nobody_published_a_digest_of_may_not_change(server, tmp_path):
    server.contents["a.json"] = b"first"
    remote = [RemoteFile(name="a.json", addresses=(f"{server.address}/a.json",), gives="a.json")]
    download(remote, tmp_path)
    (tmp_path / "a.json").unlink()
    server.contents["a.json"] = b"second"
    with pytest.raises(UserError, match=r"a\.json is another file than it was: sha256 .*downloads\.json"):
        download(remote, tmp_path)
    assert not (tmp_path / "a.json").exists()
    server.contents["a.json"] = b"first"
    download(remote, tmp_path)


def test_an_archive_of_something_else_is_named(server, tmp_path):
    server.contents["a.zip"] = archive_of(Path(downloading.__file__).parent, "")
    remote = [RemoteFile(name="a.zip", addresses=(f"{server.address}/a.zip",), into="", gives="refcoco/instances.json")]
    with pytest.raises(UserError, match=r"a\.zip does not hold refcoco/instances\.json: it is another archive"):
        download(remote, tmp_path)


def test_several_are_fetched_at_once(server, tmp_path):
    remote = []
    for name in "abcd":
        server.contents[name] = bytes(2**18)
        server.faults[name] = [("slow", 0.3)]
        remote.append(RemoteFile(name=name, addresses=(f"{server.address}/{name}",), gives=name))
    begun = time.monotonic()
    download(remote, tmp_path)
    assert time.monotonic() - begun < 4 * 4 * 0.3


def test_every_file_of_a_data_set_can_be_told_from_all_others():
    names: dict[str, RemoteFile] = {}
    for file in [file for data_set in DATA_SETS.values() for file in data_set.remote]:
        for one in (file, *file.instead):
            assert names.setdefault(one.name, one) == one
            assert one.by_hand or all(address.startswith("http") for address in one.addresses)


@pytest.mark.cluster
def test_a_killed_download_goes_on(server, tmp_path):
    publish(server, tmp_path / "refer")
    server.contents["train2014.zip"] = bytes(2**22) + server.contents["train2014.zip"]  # zip does not mind
    server.faults["train2014.zip"] = [("slow", 0.2)]
    command = [sys.executable, "-m", "pipelines", *arguments(server, tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = tmp_path / "files/train2014.zip.part"
    while not part.exists() or part.stat().st_size < 2**20:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = part.stat().st_size
    assert main(arguments(server, tmp_path)) == 0
    assert server.asked[-1][0] == "train2014.zip"
    assert server.asked[-1][1] == f"bytes={begun}-"
    assert DataStore(tmp_path / "store").manifest["image_count"] == 4


@pytest.mark.cluster
def test_a_download_that_is_asked_to_end_says_what_is_kept(server, tmp_path):
    publish(server, tmp_path / "refer")
    server.faults["train2014.zip"] = [("stall", 100)]
    command = [sys.executable, "-m", "pipelines", *arguments(server, tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "files/train2014.zip.part").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"what was fetched into {tmp_path}/files is kept" in err.splitlines()[-1]


def test_the_joint_set_is_fetched_once(server, tmp_path):
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        splits = SPLITS if split_by == "unc" else ("train", "train", "val", "test")
        Published(tmp_path / "refer", dataset=dataset, split_by=split_by, splits=splits).write()
        server.contents[f"{dataset}.zip"] = archive_of(tmp_path / "refer", dataset)
    server.contents["train2014.zip"] = archive_of(tmp_path / "refer/images", "train2014")
    command = arguments(server, tmp_path)
    assert main(["prepare", "refcoco-joint", *command[2:]]) == 0
    names = [path for path, _ in server.asked]
    assert sorted(names) == ["refcoco+.zip", "refcoco.zip", "refcocog.zip", "train2014.zip"]
    trained = DataStore(tmp_path / "store").expressions(["train"], ["image_id"])["image_id"].to_pylist()
    assert set(trained) == {"coco/1"}
