"""A file arrives whole, or is refused, whatever the servers do."""

import asyncio
import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest

from mail.data.sets.remote import RemoteFile
from mail.errors import UserError
from pipelines.downloading import transfer
from pipelines.downloading.transfer import Fetched, fetch, session
from tests.pipelines.downloading.file_server import FileServer
from tests.pipelines.small_disk import small_disk

DATA = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


def remote(*servers: FileServer, known: bool = True, name: str = "a+b.zip") -> RemoteFile:
    for server in servers:
        server.contents.setdefault(name, DATA)
    addresses = tuple(f"{server.address}/{name}" for server in servers)
    published = {"bytes": len(DATA), "sha256": DIGEST} if known else {}
    return RemoteFile(name=name, addresses=addresses, gives=name, **published)


def fetched(wanted: RemoteFile, folder: Path, mirror: str | None = None) -> Fetched:
    async def run() -> Fetched:
        async with session() as client:
            return await fetch(client, wanted, folder, lambda done, total: None, mirror)

    return asyncio.run(run())


def assert_whole(folder: Path, name: str = "a+b.zip") -> None:
    assert (folder / name).read_bytes() == DATA
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_whole_file_arrives(server, tmp_path):
    found = fetched(remote(server), tmp_path)
    assert found == Fetched(f"{server.address}/a+b.zip", len(DATA), DIGEST, True)
    assert_whole(tmp_path)


def test_addresses_are_asked_as_they_are_written(server, tmp_path):
    server.contents["datasets/refs/convert/parquet/0.parquet"] = DATA
    address = f"{server.address}/datasets/refs%2Fconvert%2Fparquet/0.parquet"
    fetched(RemoteFile(name="d/0.parquet", addresses=(address,), gives="d/0.parquet"), tmp_path)
    assert (tmp_path / "d/0.parquet").read_bytes() == DATA


@pytest.mark.parametrize("known", [True, False])
def test_what_is_cut_goes_on_where_it_ended(server, tmp_path, known):
    wanted = remote(server, known=known)
    server.faults["a+b.zip"] = [("cut", 1_000_000), ("cut", 700_000)]
    assert fetched(wanted, tmp_path).published is (True if known else None)
    assert [wish for _, wish in server.asked] == [None, "bytes=1000000-", "bytes=1700000-"]
    assert_whole(tmp_path)


def test_a_server_without_ranges_sends_it_from_the_beginning(server, tmp_path):
    server.ranges = False
    wanted = remote(server)
    server.faults["a+b.zip"] = [("cut", 1_000_000), ("cut", 2_000_000)]
    fetched(wanted, tmp_path)
    assert len(server.asked) == 3
    assert_whole(tmp_path)


def test_what_an_earlier_process_left_is_gone_on_with(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 1)
    wanted = remote(server)
    server.faults["a+b.zip"] = [("cut", 1_000_000), ("cut", 0)]
    with pytest.raises(UserError, match=r"breaks off: .*The same command goes on"):
        fetched(wanted, tmp_path)
    assert (tmp_path / "a+b.zip.part").stat().st_size == 1_000_000
    fetched(wanted, tmp_path)
    assert server.asked[-1] == ("a+b.zip", "bytes=1000000-")
    assert_whole(tmp_path)


def test_a_part_that_is_whole_is_only_checked(server, tmp_path, monkeypatch):
    wanted = remote(server)
    monkeypatch.setattr(transfer.files, "sha256_file", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "died")))
    with pytest.raises(OSError, match="died"):
        fetched(wanted, tmp_path)
    monkeypatch.undo()
    fetched(wanted, tmp_path)
    assert server.asked == [("a+b.zip", None), ("a+b.zip", f"bytes={len(DATA)}-")]
    assert_whole(tmp_path)


def test_a_file_that_changed_meanwhile_is_fetched_from_the_beginning(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 1)
    wanted = remote(server, known=False)
    server.contents["a+b.zip"] = bytes(len(DATA) - 7)
    server.faults["a+b.zip"] = [("cut", 1_000_000), 503]
    with pytest.raises(UserError, match="503"):
        fetched(wanted, tmp_path)
    server.contents["a+b.zip"] = DATA
    fetched(wanted, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.parametrize("fault", [404, 403, 410, "html", 503, ("cut", 0)])
def test_an_address_that_does_not_give_it_is_left_for_the_next(server, mirror, tmp_path, fault):
    wanted = remote(server, mirror)
    server.faults["a+b.zip"] = [fault] * 10
    assert fetched(wanted, tmp_path).address == f"{mirror.address}/a+b.zip"
    assert_whole(tmp_path)


def test_a_server_that_is_not_there_is_left_for_the_next(mirror, tmp_path):
    wanted = remote(mirror)
    nobody = RemoteFile(name=wanted.name, addresses=("http://127.0.0.1:9/a", *wanted.addresses), gives=wanted.gives)
    assert fetched(nobody, tmp_path).address == wanted.addresses[0]


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA[:-1] + b"?"])
def test_another_file_than_the_published_is_refused_and_the_next_asked(server, mirror, tmp_path, wrong):
    wanted = remote(server, mirror)
    server.contents["a+b.zip"] = wrong
    assert fetched(wanted, tmp_path).address == f"{mirror.address}/a+b.zip"
    assert_whole(tmp_path)
    (tmp_path / "a+b.zip").unlink()
    mirror.contents["a+b.zip"] = DATA[::-1]
    with pytest.raises(
        UserError, match=rf"has another file: .*; http://.* has another file: its sha256 is .*{DIGEST[:12]}"
    ):
        fetched(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_two_versions_are_not_taken_for_a_file(server, tmp_path, monkeypatch):
    """A server without versions goes on with another file than it began with."""
    monkeypatch.setattr(transfer, "TRIES", 1)
    wanted = remote(server)
    server.contents["a+b.zip"] = DATA[::-1]
    server.faults["a+b.zip"] = [("cut", 1_000_000), 503]
    with pytest.raises(UserError, match="503"):
        fetched(wanted, tmp_path)
    state = tmp_path / "a+b.zip.part.json"
    state.write_text(state.read_text().replace('"version": "', '"unknown": "'))
    server.contents["a+b.zip"] = DATA
    fetched(wanted, tmp_path)
    assert server.asked[-1] == ("a+b.zip", None)
    assert_whole(tmp_path)


def test_all_reasons_are_one_line(server, mirror, tmp_path):
    wanted = remote(server, mirror)
    server.faults["a+b.zip"], mirror.faults["a+b.zip"] = [404], ["html"]
    with pytest.raises(UserError) as raised:
        fetched(wanted, tmp_path)
    line = str(raised.value)
    assert f"{server.address}/a+b.zip answers 404 Not Found; {mirror.address}/a+b.zip answers with a web page" in line
    assert f"put it at {tmp_path}/a+b.zip" in line
    assert "\n" not in line


def test_a_slow_server_is_waited_for_and_a_silent_one_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.4)
    wanted = remote(server)
    server.faults["a+b.zip"] = [("stall", 500_000), ("slow", 0.03)]
    fetched(wanted, tmp_path)
    assert [wish for _, wish in server.asked] == [None, "bytes=500000-"]
    assert_whole(tmp_path)


def test_the_mirror_of_a_person_is_asked_first_and_believed(server, mirror, tmp_path):
    wanted = remote(server)
    mirror.contents["files/a+b.zip"] = b"made for a test"
    found = fetched(wanted, tmp_path, f"{mirror.address}/files/")
    assert (found.address, found.published) == (f"{mirror.address}/files/a+b.zip", False)
    assert (tmp_path / "a+b.zip").read_bytes() == b"made for a test"
    assert server.asked == []
    (tmp_path / "a+b.zip").unlink()
    del mirror.contents["files/a+b.zip"]
    assert fetched(wanted, tmp_path, f"{mirror.address}/files").published


def test_a_file_that_does_not_fit_is_refused_before_it_is_written(server, tmp_path):
    with small_disk(tmp_path / "disk", "2m") as disk:
        with pytest.raises(UserError, match=r"needs about .* GiB for a\+b\.zip, .* are free on its disk"):
            fetched(remote(server), disk.seen)
        assert list(disk.seen.iterdir()) == []


def test_a_disk_that_is_full_keeps_what_came_and_goes_on_when_there_is_room(server, tmp_path):
    wanted = remote(server)
    server.faults["a+b.zip"] = ["no length"]
    with small_disk(tmp_path / "disk", "4m") as disk:
        (disk.seen / "other").write_bytes(bytes(2_500_000))
        with pytest.raises(OSError, match="No space left") as raised:
            fetched(wanted, disk.seen)
        assert str(raised.value.filename).endswith("a+b.zip.part")
        begun = (disk.seen / "a+b.zip.part").stat().st_size
        assert begun > 1_000_000
        (disk.seen / "other").unlink()
        fetched(wanted, disk.seen)
        assert server.asked[-1] == ("a+b.zip", f"bytes={begun}-")
        assert_whole(disk.seen)
