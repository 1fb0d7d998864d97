"""The mask table on a local disk and on an S3 server: what is committed is there exactly once, and nothing else is."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars
import pyarrow.parquet as pq
import pytest

from mail.data import files, schema
from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import collect, compact, status, verify
from mail.data.origins import UNKNOWN, Origin
from mail.errors import UserError
from tests.mask_rows import ids, mask_rows
from tests.s3 import BUCKET, s3_server, unreliable, use_endpoint

PROPOSER = {"id": "p-1", "name": "p"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.cluster)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "masks")
    request.getfixturevalue("endpoint")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/masks"


def add(table: MaskTable, *numbers: int, proposer_id: str = "p-1") -> None:
    table.commit([table.write(mask_rows(ids(*numbers), proposer_id))], {"id": proposer_id})


def counts(uri: str, proposer_id: str = "p-1") -> Counter[str]:
    return Counter(row["image_id"] for row in MaskTable(uri).snapshot(proposer_id).rows(["image_id"]))


def test_pending_is_what_has_no_committed_row_of_this_proposer(uri: str) -> None:
    table = MaskTable(uri)
    add(table, 1, 5, 9)
    add(table, 3, proposer_id="p-2")
    assert MaskTable(uri).pending(ids(9, 3, 5, 7), "p-1").to_pylist() == ids(3, 7)
    assert table.pending(ids(1, 3), "p-2").to_pylist() == ids(1)
    assert table.pending([], "p-1").to_pylist() == []


def test_a_written_file_is_not_there_before_its_commit(uri: str) -> None:
    table = MaskTable(uri)
    add(table, 1)
    file = table.write(mask_rows(ids(2)))
    assert counts(uri) == Counter(ids(1))
    table.commit([file], PROPOSER)
    assert counts(uri) == Counter(ids(1, 2))


def test_a_snapshot_does_not_change_when_the_table_does(uri: str) -> None:
    table = MaskTable(uri)
    add(table, 1)
    before = table.snapshot()
    add(table, 2)
    assert [r["image_id"] for r in before.rows()] == ids(1)
    again = MaskTable(uri).snapshot(version=1)
    assert (again.digest, again.files) == (before.digest, before.files)
    assert table.snapshot().digest != before.digest


def test_rows_that_another_driver_committed_meanwhile_are_dropped(uri: str) -> None:
    mine, theirs = MaskTable(uri), MaskTable(uri)
    planned_at = mine.head()
    file = mine.write(mask_rows(ids(1, 2, 3)))
    add(theirs, 2, 4)
    state = mine.commit([file, mine.write(mask_rows(ids(4)))], PROPOSER, planned_at=planned_at)
    assert state.version == 2
    assert counts(uri) == Counter(ids(1, 2, 3, 4))


def test_of_many_drivers_at_once_every_image_has_one_row(uri: str) -> None:
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def drive(number: int) -> None:
        try:
            table = MaskTable(uri)
            files = [table.write(mask_rows(ids(*range(number, number + 6))))]
            barrier.wait()
            table.commit(files, PROPOSER)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert counts(uri) == Counter(ids(*range(13)))


@pytest.mark.cluster
def test_a_long_history_is_read_with_a_handful_of_requests(endpoint: str) -> None:
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    table = MaskTable(uri)
    for number in range(35):
        add(table, number)
    asked: list[str] = []
    with unreliable(endpoint, [], [], asked) as proxy, pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, proxy)
        assert MaskTable(uri).head() == table.head()
    assert len(asked) < 30
    assert len(MaskTable(uri).snapshot()) == 35


def test_reading_by_id_keeps_the_order_asked_for_and_leaves_out_unknown_images(uri: str) -> None:
    table = MaskTable(uri)
    add(table, 1, 2, 3)
    add(table, 10, 11)
    snapshot = table.snapshot()
    rows = snapshot.read([*ids(11, 2), "coco/none"], ["status", "image_id"])
    assert rows["image_id"].to_pylist() == ids(11, 2)
    assert rows.column_names == ["status", "image_id"]
    assert len(snapshot.proposals(ids(2))[ids(2)[0]]) == 2
    assert snapshot.read([]).num_rows == 0


def test_a_retry_replaces_rows(uri: str) -> None:
    table = MaskTable(uri)
    table.commit([table.write(mask_rows(ids(1, 2, 3), status="decode_error"))], PROPOSER)
    table.commit([table.write(mask_rows(ids(2)))], PROPOSER, replace=True)
    states = {r["image_id"]: r["status"] for r in MaskTable(uri).snapshot().rows()}
    assert states == dict(zip(ids(1, 2, 3), ["decode_error", "ok", "decode_error"], strict=True))
    (entry,) = status(table, table.head())
    assert entry.statuses == {"decode_error": 2, "ok": 1}


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["500", "503", "cut", "lost"])
def test_a_failing_object_store_neither_loses_nor_doubles_anything(endpoint: str, fault: str) -> None:
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    faults = [fault] * 2
    with unreliable(endpoint, faults) as proxy, pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, proxy)
        table = MaskTable(uri)
        faulty_write = table.write(mask_rows(ids(1, 2)))
        faults += [fault, fault, ""] * 3  # what is known of the proposer, the table itself, the commit
        state = table.commit([faulty_write], PROPOSER)
    assert not faults
    assert state.version == 1
    assert counts(uri) == Counter(ids(1, 2))
    assert MaskTable(uri).head().version == 1


@pytest.mark.cluster
def test_reads_are_tried_again_also_where_the_error_is_longer_than_what_was_asked_for(endpoint: str) -> None:
    uri = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    table = MaskTable(uri)
    table.register_origin("p-1", ["coco/1"])
    add(table, 1, 2)
    reads: list[str] = []
    with unreliable(endpoint, [], reads) as proxy, pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, proxy)
        snapshot = MaskTable(uri).snapshot()
        reads += ["503", "503"]
        filesystem, root = files.resolve(uri)
        assert b'["coco/1"]' in files.read_bytes(filesystem, f"{root}/_proposers/p-1.images.json")
        assert not reads
        reads += ["503", "500"]
        assert snapshot.read(ids(2), ["image_id"])["image_id"].to_pylist() == ids(2)
        assert MaskTable(uri).pending(ids(1, 2, 3), "p-1").to_pylist() == ids(3)
        reads.append("503")
        assert len(list(snapshot.rows(["image_id"]))) == 2
    assert not reads


def test_only_the_row_groups_that_can_hold_an_image_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mail.data.mask_table.ROW_GROUP_BYTES", 2000)
    table = MaskTable(tmp_path)
    add(table, *range(0, 400, 2))
    read: list[int] = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, columns=None, **options: (
            read.extend(groups if columns != ["image_id"] else ()) or original(self, groups, columns=columns, **options)
        ),
    )
    assert len(table.snapshot().read(ids(0, 100, 101, 398))) == 3
    assert len(read) == 3


def test_what_is_not_as_described_is_not_committed(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    file = table.write(mask_rows(ids(1, 2)))
    other = table.write(mask_rows(ids(2, 3)))
    with pytest.raises(UserError, match="more than once"):
        table.commit([file, other], PROPOSER)
    with pytest.raises(UserError, match="another proposer"):
        table.commit([file], {"id": "p-2"})
    (tmp_path / other.path).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is damaged"):
        table.commit([other], PROPOSER)
    (tmp_path / other.path).unlink()
    with pytest.raises(UserError, match="is missing"):
        table.commit([other], PROPOSER)
    with pytest.raises(ValueError, match="twice"):
        table.write(mask_rows(ids(1, 1)))
    assert table.head().version == 0


def test_several_proposers_must_be_told_apart(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    with pytest.raises(UserError, match="no commits"):
        table.snapshot()
    add(table, 1)
    add(table, 1, proposer_id="p-2")
    with pytest.raises(UserError, match="p-1, p-2"):
        table.snapshot()
    with pytest.raises(UserError, match="p-3"):
        table.snapshot("p-3")
    assert table.snapshot("p-2").proposer["id"] == "p-2"


def test_a_history_that_was_tampered_with_is_noticed(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    add(table, 1)
    add(table, 2)
    recorded = table.snapshot()
    first = tmp_path / "_delta_log" / f"{1:020}.json"
    text = first.read_text()
    for old, new in (("coco/000001", "coco/000000"), ('numRecords\\": 1', 'numRecords\\": 2'), ('"size":', '"size":1')):
        assert old in text
        first.write_text(text.replace(old, new))
        assert MaskTable(tmp_path).snapshot(version=2).digest != recorded.digest
    first.write_text("{")
    with pytest.raises(UserError, match="cannot be used as a Delta table"):
        MaskTable(tmp_path).head()
    first.write_text(text)
    assert MaskTable(tmp_path).snapshot(version=2).digest == recorded.digest
    with pytest.raises(UserError, match="cannot be used as a Delta table"):
        MaskTable(tmp_path).snapshot(version=9)


def test_the_same_rows_at_another_place_or_time_are_another_version(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        table = MaskTable(tmp_path / name)
        add(table, 1)
        digests.add(table.head().digest)
    add(table, 2)
    assert len({*digests, table.head().digest}) == 3


def test_a_table_of_the_old_layout_is_refused(uri: str) -> None:
    filesystem, root = files.resolve(uri)
    files.write_bytes(filesystem, f"{root}/_commits/000001.json", b"{}")
    for use in (lambda t: t.head(), lambda t: t.snapshot(), lambda t: t.pending(ids(1), "p-1"), lambda t: add(t, 1)):
        with pytest.raises(UserError, match=r"older layout.*precompute into a new table"):
            use(MaskTable(uri))


@pytest.mark.parametrize("name", ["a b", "50% of #1?", "masques d'été", "plus+=&"])
def test_any_characters_do_in_addresses_and_proposer_ids(uri: str, name: str) -> None:
    uri, proposer_id = f"{uri}/{name}", f"{name}/x%20"
    table = MaskTable(uri)
    add(table, 1, 2, proposer_id=proposer_id)
    add(table, 3, proposer_id=proposer_id)
    retried = table.write(mask_rows(ids(2), proposer_id, status="too_large"))
    table.commit([retried], {"id": proposer_id, "leaky": True}, replace=True)
    table.register_origin(proposer_id, ["coco/1"])
    assert compact(MaskTable(uri)) == (3, 1)
    assert len(collect(MaskTable(uri), timedelta(0), delete=True)) == 4
    assert counts(uri, proposer_id) == Counter(ids(1, 2, 3))
    snapshot = MaskTable(uri).snapshot()
    assert (snapshot.proposer_id, snapshot.lineage["leaky"]) == (proposer_id, True)
    assert snapshot.origin().image_ids == ["coco/1"]
    assert list(verify(table)) == []


def test_what_anybody_said_that_a_proposer_saw_counts(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1)))], {"id": "p-1", "trained_on": None})
    assert table.snapshot().origin() == UNKNOWN
    table.register_origin("p-1", ["coco/1"])
    table.register_origin("p-1", UNKNOWN)  # knows less
    both = table.register_origin("p-1", Origin.of((), ["coco/train2017"]))
    assert str(both) == "coco/train2017, 1 listed images"
    assert MaskTable(tmp_path).snapshot().origin() == both
    assert MaskTable(tmp_path).snapshot().proposer["trained_on"] == both.summary


def test_an_address_that_delta_would_decode_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rename the folder"):
        MaskTable(tmp_path / "a%20b").head()


@pytest.mark.cluster
@pytest.mark.usefixtures("endpoint")
def test_a_store_that_does_not_answer_as_it_should_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket: http://.* has no such bucket") as caught:
        MaskTable("s3://no-such-bucket/masks").head()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_polars_reads_the_table_as_we_do(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1, 2), status="decode_error"))], PROPOSER)
    add(table, 3, 4)
    table.commit([table.write(mask_rows(ids(2)))], PROPOSER, replace=True)
    add(table, 1, proposer_id="p-2")
    for proposer_id in ("p-1", "p-2"):
        found = polars.scan_delta(str(tmp_path)).filter(polars.col("proposer_id") == proposer_id).sort("image_id")
        rows = found.drop("proposer_id").collect().to_dicts()
        assert rows == sorted(table.snapshot(proposer_id).rows(), key=lambda r: r["image_id"])
    past = polars.read_delta(str(tmp_path), version=1)
    assert past["status"].to_list() == ["decode_error"] * 2
    assert past.columns == schema.MASKS.names


def test_a_proposer_that_was_leaky_once_stays_so(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1)))], {**PROPOSER, "leaky": True})
    table.commit([table.write(mask_rows(ids(2)))], {**PROPOSER, "leaky": False})
    assert MaskTable(tmp_path).snapshot().lineage["leaky"] is True


def test_images_without_masks_are_named(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    add(table, 1)
    table.snapshot().check_covers(ids(1))
    with pytest.raises(UserError, match="2 of 3 images by p-1, first: coco/000002"):
        table.snapshot().check_covers(ids(1, 2, 3))


def test_nothing_but_whole_files_is_left_behind(tmp_path: Path) -> None:
    table, loser = MaskTable(tmp_path), MaskTable(tmp_path)
    add(table, 1)
    before = loser.head()
    add(table, 2)
    assert loser.log.append(before, [loser.write(mask_rows(ids(3)))], proposer_id="p-1") is None
    assert table.head().version == 2
    kinds = {"".join(p.suffixes) for p in tmp_path.rglob("*") if p.is_file()}
    assert kinds == {".json", ".parquet", ".info.json"}
