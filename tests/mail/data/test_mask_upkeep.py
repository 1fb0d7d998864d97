"""verify finds what is wrong; compact and gc keep every row that somebody may still read."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from mail.data import schema
from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import collect, compact, problems, status, verify
from mail.errors import UserError
from tests.mask_rows import ids, mask_rows

PROPOSER = {"id": "p-1"}


def change(rows: pa.Table, **values: object) -> pa.Table:
    return pa.Table.from_pylist([{**r, **values} for r in rows.to_pylist()], schema.MASKS)


def first_instance(rows: pa.Table, **values: object) -> pa.Table:
    found = rows.to_pylist()
    found[0]["instances"][0].update(values)
    return pa.Table.from_pylist(found, schema.MASKS)


def test_a_sound_table_has_nothing_wrong(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1, 2)))], PROPOSER)
    table.commit([table.write(mask_rows(ids(3), status="decode_error"))], PROPOSER)
    assert list(verify(table)) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"area": 3.0}, "area 3.0, its mask has 28 pixels"),
        ({"bbox": [0.0, 0.0, 1.0, 1.0]}, "box"),
        ({"rle": b"\xff\xff"}, "characters that do not belong"),
        ({"rle": b"04"}, "cover"),
        ({"score": 2.0}, "score 2.0 after 1.0"),
    ],
)
def test_wrong_instances_are_found(tmp_path: Path, values: dict, message: str) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(first_instance(mask_rows(ids(1)), **values))], PROPOSER)
    found = list(verify(table))
    assert len(found) == 1
    assert message in found[0]


def test_wrong_files_and_rows_are_found(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    files = [table.write(change(mask_rows(ids(1)), status="strange")), table.write(mask_rows(ids(2)))]
    table.commit([*files, table.write(mask_rows(ids(3)))], PROPOSER)
    path = tmp_path / files[1].path
    path.write_bytes(path.read_bytes() + b" ")
    (tmp_path / table.snapshot().files[-1].path).unlink()
    found = "\n".join(verify(table))
    for message in ("unknown status 'strange'", "has changed since it was committed", "is missing"):
        assert message in found


def test_compacting_keeps_rows_and_older_snapshots(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    for number in range(5):
        table.commit([table.write(mask_rows(ids(number)))], PROPOSER)
    before = table.snapshot()
    assert compact(table, dry_run=True) == (5, 1)
    assert table.head().version == 5
    assert compact(table) == (5, 1)
    after = table.snapshot()
    assert len(after.files) == 1
    assert list(after.rows()) == list(before.rows())
    assert list(verify(table)) == []
    assert compact(table) == (0, 0)


def age(path: Path, hours: float) -> None:
    past = time.time() - hours * 3600
    os.utime(path, (past, past))


def test_gc_takes_only_old_files_that_no_recent_version_names(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.register_origin("p-1", ["coco/1"])
    for number in range(3):
        table.commit([table.write(mask_rows(ids(number)))], PROPOSER)
    before = table.snapshot()
    orphan, young = table.write(mask_rows(ids(7))), table.write(mask_rows(ids(8)))
    (partial := (tmp_path / orphan.path).with_name(".killed.partial")).write_text("half")
    small = set(table.head().files)
    compact(table)
    assert collect(table, timedelta(days=1)) == []
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != tmp_path / young.path:
            age(path, hours=48)
    orphans = {orphan.path: orphan.bytes, partial.relative_to(tmp_path).as_posix(): 4}
    assert dict(collect(table, timedelta(days=1))) == orphans  # the others were current a moment ago
    for number in range(10, 30):  # the log's checkpoints remember since when files are unneeded
        table.commit([table.write(mask_rows(ids(number)))], PROPOSER)
    assert dict(collect(MaskTable(tmp_path), timedelta(days=1), delete=True)) == orphans
    assert len(list(before.rows())) == 3
    assert {path for path, _ in collect(table, timedelta(0))} == {*small, young.path}
    assert (tmp_path / young.path).exists()
    collect(table, timedelta(0), delete=True)
    assert sorted(r["image_id"] for r in table.snapshot().rows()) == ids(0, 1, 2, *range(10, 30))
    assert table.snapshot().origin().image_ids == ["coco/1"]
    assert list(verify(table)) == []
    with pytest.raises(UserError, match="is missing"):
        list(before.rows())


def test_problems_are_listed_by_status(tmp_path: Path) -> None:
    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1)))], PROPOSER)
    table.commit([table.write(mask_rows(ids(2), status="too_large"))], PROPOSER)
    assert [(p.image_id, p.error) for p in problems(table, "p-1")] == [("coco/000002", "cut short")]
    assert list(problems(table, "p-1", {"decode_error"})) == []
    mixed = pa.concat_tables([mask_rows(ids(3)), mask_rows(ids(4), status="decode_error")])
    table.commit([table.write(mixed)], PROPOSER)
    assert [p.image_id for p in problems(table, "p-1", {"decode_error", "too_large"})] == ids(2, 4)
    (entry,) = status(table, table.head())
    assert entry.statuses == {"decode_error": 1, "ok": 2, "too_large": 1}
