"""The index of a split: its expressions by row number, without those whose image cannot be used."""

import io

import pytest
from PIL import Image

from mail import rle
from mail.data.expression_index import ExpressionIndex
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DataStore:
    writer = DataStoreWriter(tmp_path_factory.mktemp("plan") / "store", "plan")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG")
    for number in range(20):
        image_id = f"made/{number:03d}"
        height = 0 if number == 3 else 6
        writer.add_image(image_id=image_id, file_name="a.jpg", image=buffer.getvalue(), height=height, width=8)
        for sentence in range(3):
            writer.add_expression(
                expr_id=f"made/{number}-{sentence}",
                ref_id=f"made/ref-{number}-{sentence // 2}",
                image_id=image_id,
                split="val" if number % 5 == 0 else "train",
                text=f"thing {sentence}",
                target=rle.empty(6, 8),
                no_target=False,
                ann_ids=[number],
                category="thing",
            )
    return writer.finish()


def test_the_index_finds_a_splits_expressions_by_row_number(store):
    index = ExpressionIndex.read(store, "train")
    table = store.expressions()
    assert set(table["split"].take(index.row).to_pylist()) == {"train"}
    assert table["image_id"].take(index.row).to_pylist() == store.image_index["image_id"].take(index.image).to_pylist()
    assert len(set(index.ref.tolist())) == 2 * 15


def test_images_that_cannot_be_used_are_counted_and_left_out(store):
    index = ExpressionIndex.read(store, "train", unusable=["made/004"])
    assert (index.skipped_images, index.skipped_expressions) == (2, 6)
    assert not {3, 4} & set(index.image.tolist())


def test_an_unknown_split_is_named(store):
    with pytest.raises(UserError, match="no split 'trian'"):
        ExpressionIndex.read(store, "trian")
