import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mail import rle
from mail.data import store_writer
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError


def add(writer: DataStoreWriter, image_id: str, expressions: int = 2, split: str = "val", size: int = 50) -> None:
    noise = np.random.default_rng(len(image_id) + ord(image_id[-1])).bytes(size)
    writer.add_image(image_id=image_id, file_name=f"{image_id}.jpg", image=noise, height=4, width=6)
    for number in range(expressions):
        mask = np.zeros((4, 6), bool)
        mask[:number] = True
        writer.add_expression(
            expr_id=f"{image_id}/{number}",
            ref_id=f"{image_id}/ref",
            image_id=image_id,
            split=split,
            text=f"thing {number} caf\u00e9",
            target=rle.encode(mask),
            no_target=number == 0,
            ann_ids=[number, 2**40],
            category="thing",
        )


def fill(path, ids, **options) -> DataStore:
    writer = DataStoreWriter(path, "test")
    for image_id in ids:
        add(writer, image_id, **options)
    return writer.finish([{"path": "a", "sha256": "b", "bytes": 1}], {"seed": 0})


def test_what_was_added_is_read_back_in_order(tmp_path):
    store = fill(tmp_path / "store", ["c", "a", "b"])
    table = store.expressions()
    assert table["expr_id"].to_pylist() == ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]
    row = table.to_pylist()[1]
    assert row["text"] == "thing 1 caf\u00e9"
    assert row["ann_ids"] == [1, 2**40]
    assert rle.area(row["target"]) == 6
    assert store.image_index["image_id"].to_pylist() == ["a", "b", "c"]
    assert store.splits == {"val": {"images": 3, "refs": 3, "expressions": 6}}
    assert store.manifest["sources"] == [{"path": "a", "sha256": "b", "bytes": 1}]


def test_digest_is_the_contents_and_not_the_order_or_the_place(tmp_path):
    first = fill(tmp_path / "1", ["a", "b", "c"])
    assert fill(tmp_path / "2", ["c", "b", "a"]).digest == first.digest
    assert fill(tmp_path / "3", ["a", "b"]).digest != first.digest
    assert fill(tmp_path / "4", ["a", "b", "c"], split="train").digest != first.digest
    assert fill(tmp_path / "5", ["a", "b", "c"], size=51).digest != first.digest


def test_digest_does_not_depend_on_how_images_are_cut_into_files(tmp_path, monkeypatch):
    whole = fill(tmp_path / "whole", "abcdef")
    monkeypatch.setattr(store_writer, "TARGET_FILE_BYTES", 100)
    monkeypatch.setattr(store_writer, "EXPRESSIONS_PER_ROW_GROUP", 3)
    cut = fill(tmp_path / "cut", "abcdef")
    assert len(cut.image_files) == 3
    assert len(cut.expression_files) > 1
    assert cut.digest == whole.digest
    assert cut.expressions().equals(whole.expressions())
    assert [(f.first_image_id, f.last_image_id) for f in cut.image_files] == [("a", "b"), ("c", "d"), ("e", "f")]


def test_images_are_flushed_while_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "TARGET_FILE_BYTES", 1000)
    writer = DataStoreWriter(tmp_path / "store", "test")
    for number in range(100):
        add(writer, f"{number:03d}", size=100)
    assert len(list((tmp_path / "store/images").iterdir())) >= 9  # the last one may still be written
    store = writer.finish()
    assert len(store.image_files) == 10
    assert sum(len(batch) for batch in store.images(["image_id"])) == 100


def test_a_file_that_could_not_be_written_is_told_before_there_is_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "TARGET_FILE_BYTES", 1000)
    writer = DataStoreWriter(tmp_path / "store", "test")
    (tmp_path / "store").mkdir(exist_ok=True)
    (tmp_path / "store" / "images").write_text("in the way")
    for number in range(10):
        add(writer, f"{number:03d}", size=100)
    with pytest.raises(FileExistsError, match="images"):
        writer.finish()
    assert not (tmp_path / "store" / "store.json").exists()


def test_row_groups_are_small_enough_for_random_access(tmp_path):
    store = fill(tmp_path / "store", [f"{n:02d}" for n in range(20)])
    file = pq.ParquetFile(store.path(store.image_files[0]))
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [8, 8, 4]


def test_unfinished_store_is_not_a_store_and_can_be_written_again(tmp_path):
    add(DataStoreWriter(tmp_path / "store", "test"), "a")
    with pytest.raises(UserError, match="is not a data store"):
        DataStore(tmp_path / "store")
    assert fill(tmp_path / "store", ["a"]).splits["val"]["images"] == 1


def test_finished_store_is_not_overwritten(tmp_path):
    fill(tmp_path / "store", ["a"])
    with pytest.raises(UserError, match="already holds a data store"):
        DataStoreWriter(tmp_path / "store", "other")


def test_same_image_twice_is_kept_once_and_other_content_is_refused(tmp_path):
    writer = DataStoreWriter(tmp_path / "store", "test")
    for _ in range(2):
        writer.add_image(image_id="a", file_name="a.jpg", image=b"1", height=1, width=1)
    with pytest.raises(UserError, match=r"image a .* comes twice with different content"):
        writer.add_image(image_id="a", file_name="a.jpg", image=b"2", height=1, width=1)
    assert writer.finish().manifest["image_count"] == 1


def test_doubled_expression_ids_and_lost_images_are_refused(tmp_path):
    writer = DataStoreWriter(tmp_path / "1", "test")
    add(writer, "a")
    add(writer, "a")
    with pytest.raises(UserError, match="2 expression ids come more than once, first: a/0, a/1"):
        writer.finish()
    writer = DataStoreWriter(tmp_path / "2", "test")
    add(writer, "a")
    writer._seen.clear()
    with pytest.raises(UserError, match="2 expressions name an image that is not there, first: a/0"):
        writer.finish()


def test_expression_with_a_missing_field_is_refused(tmp_path):
    with pytest.raises(ValueError, match="an expression has the fields"):
        DataStoreWriter(tmp_path / "store", "test").add_expression(expr_id="a", text="b")


def test_unknown_split_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="has no split 'testC': it has val"):
        fill(tmp_path / "store", ["a"]).expressions(["testC"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 99}'])
def test_foreign_manifest_is_a_clear_error(tmp_path, content):
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(UserError, match="prepare it again"):
        DataStore(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    store = fill(tmp_path / "store", ["a"])
    path = tmp_path / "store" / store.expression_files[0].path
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"expressions/part-00000-.*\.parquet is damaged"):
        store.expressions()
    path.unlink()
    with pytest.raises(UserError, match=r"expressions/part-00000-.*\.parquet is missing"):
        store.expressions()


def test_empty_store_can_be_read(tmp_path):
    store = DataStoreWriter(tmp_path / "store", "empty").finish()
    assert len(store.expressions()) == len(store.image_index) == 0
    assert json.loads((tmp_path / "store/store.json").read_text())["splits"] == {}
