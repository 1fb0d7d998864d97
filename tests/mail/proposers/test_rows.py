"""From a store's images to mask rows: every pending image exactly once, whatever is wrong with it."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from PIL import Image

from mail.data import schema
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.proposals import Proposals
from mail.proposers import load_proposer
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import write_proposer
from mail.proposers.maskrcnn import build_network
from mail.proposers.paste import Detections
from mail.proposers.quality import proposal_quality
from mail.proposers.rows import (
    DETECTED,
    WorkUnit,
    decode_unit,
    detect_rows,
    plan_units,
    propose_rows,
    select_rows,
)
from tests.boxes import make_boxes


class Picky:
    """A proposer that cannot stand images of 7 pixels' height, and finds nothing in the others."""

    proposer_id = "picky-1"

    def __init__(self) -> None:
        self.info: dict = {}

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        if any(i.shape[0] == 7 for i in images):
            raise RuntimeError("seven")
        none = np.zeros(0, np.float32)
        return [Detections(none.reshape(0, 4), none, none.astype(np.int32), []) for _ in images]

    def select(self, found: Detections, size: tuple[int, int]) -> Proposals:
        return Proposals(size)

    def propose(self, images: list[np.ndarray]) -> list[Proposals]:
        raise AssertionError("rows detect and select")


def write_store(folder: Path, count: int) -> DataStore:
    writer = DataStoreWriter(folder, "pictures")
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 5 + number % 3), "white").save(buffer, "JPEG")
        data = buffer.getvalue()[:-30] if number == 3 else buffer.getvalue()
        data += bytes([number])  # each file its own
        height, width = (0, 0) if number == 3 else (5 + number % 3, 8)
        writer.add_image(image_id=f"coco/{number:03d}", file_name="a.jpg", image=data, height=height, width=width)
    return writer.finish()


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    return write_store(tmp_path / "store", 30)


def ids(store: DataStore) -> list[str]:
    return store.image_index["image_id"].to_pylist()


@pytest.mark.parametrize("step", [1, 3, 29])
def test_units_cover_exactly_what_is_pending(store: DataStore, step: int) -> None:
    wanted = ids(store)[::step]
    units = [WorkUnit.from_json(u.to_json()) for u in plan_units(store, pa.array(wanted), 10)]
    read = [i for u in units for i in decode_unit(store.uri, u, 10**6)["image_id"].to_pylist()]
    assert sorted(read) == wanted
    assert sum(u.images for u in units) == len(wanted)


def test_row_groups_without_pending_images_are_not_read(store: DataStore) -> None:
    (unit,) = plan_units(store, pa.array(ids(store)[20:21]), 10)
    assert (unit.row_groups, unit.image_ids) == ((2,), ("coco/020",))


def test_bad_images_become_rows_with_a_reason(store: DataStore) -> None:
    (unit,) = plan_units(store, pa.array(ids(store)), 100)
    decoded = decode_unit(store.uri, unit, max_pixels=10**6)
    rows = propose_rows(Picky(), decoded)
    assert rows.schema == schema.MASKS
    assert rows["image_id"].to_pylist() == decoded["image_id"].to_pylist()
    assert sorted(rows["image_id"].to_pylist()) == ids(store)
    by_id = {r["image_id"]: r for r in rows.to_pylist()}
    assert by_id["coco/003"]["status"] == schema.STATUS_DECODE_ERROR
    assert by_id["coco/003"]["error"]
    assert by_id["coco/002"]["status"] == schema.STATUS_PROPOSER_ERROR
    assert by_id["coco/002"]["error"] == "RuntimeError: seven"
    fine = by_id["coco/001"]
    assert (fine["status"], fine["error"], fine["height"], fine["width"]) == ("ok", None, 6, 8)
    assert fine["image_sha256"] == store.image_index["sha256"][1].as_py()


def test_pasting_apart_from_the_network_gives_the_same_rows(store: DataStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, selection = NetworkConfig(min_size=32, max_size=48), SelectionConfig(score_threshold=0.0, max_instances=4)
    weights = safetensors.torch.save(build_network(network).state_dict())
    folder = write_proposer(
        tmp_path / "p", network=network, selection=selection, weights=weights, seen=None, training={}
    )
    (unit,) = plan_units(store, pa.array(ids(store)[:6]), 100)
    decoded = decode_unit(store.uri, unit, 10**6)
    proposer = load_proposer(folder.path)
    detected = detect_rows(proposer, pa.concat_tables([decoded.slice(0, 1), decoded.slice(1, 3), decoded.slice(4)]))
    assert detected.schema == DETECTED
    together, apart = propose_rows(proposer, decoded), select_rows(folder, detected)
    assert apart.equals(together)
    assert sum(len(r["instances"]) for r in apart.to_pylist()) > 0


def test_images_of_like_shape_come_together(store: DataStore) -> None:
    (unit,) = plan_units(store, pa.array(ids(store)), 100)
    assert decode_unit(store.uri, unit, 10**6)["height"].to_pylist() == [0] + [5] * 9 + [6] * 10 + [7] * 10


def test_huge_images_are_refused_undecoded(store: DataStore) -> None:
    (unit,) = plan_units(store, pa.array(ids(store)[:1]), 100)
    (row,) = decode_unit(store.uri, unit, max_pixels=10).to_pylist()
    assert (row["status"], row["pixels"]) == (schema.STATUS_TOO_LARGE, None)


def test_quality_counts_every_expression_and_images_without_masks(tmp_path: Path) -> None:
    boxes = make_boxes(tmp_path, images=12, broken=1)
    report = proposal_quality(boxes.store, boxes.masks, ["train"])
    numbers = boxes.store.splits["train"]
    assert report["expressions"] == numbers["expressions"]
    assert report["images"] == numbers["images"]
    # the proposals are the targets themselves, except for the image that could not be decoded
    assert report["proposal_recall_50"] == pytest.approx(1 - 1 / numbers["images"])
    assert report["oracle_mIoU"] == report["proposal_recall_75"] == report["proposal_recall_50"]
    assert report["images_without_row"] == 0
