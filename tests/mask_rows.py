"""Rows of the mask table for tests: real run lengths, quick to make."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mail import rle
from mail.data import schema
from mail.proposals import Proposals

SIZE = (12, 16)


def ids(*numbers: int) -> list[str]:
    return [f"coco/{n:06d}" for n in numbers]


def proposals(count: int = 2) -> Proposals:
    masks = np.zeros((count, *SIZE), bool)
    for number in range(count):
        masks[number, number : number + 4, 2:9] = True
    found = rle.encode_many(masks)
    boxes = np.array([rle.bbox(r) for r in found], np.float32).reshape(-1, 4)
    return Proposals(SIZE, np.linspace(0.9, 0.5, count, dtype=np.float32), np.ones(count, np.int32), boxes, found)


def mask_rows(
    image_ids: Sequence[str], proposer_id: str = "p-1", status: str = schema.STATUS_OK, sha256: str = "0" * 64
) -> pa.Table:
    """One row an image; all have the same two instances, or none and an error if the status is not ok."""
    fine = status == schema.STATUS_OK
    row = {
        "proposer_id": proposer_id,
        "image_sha256": sha256,
        "height": SIZE[0],
        "width": SIZE[1],
        "status": status,
        "error": None if fine else "cut short",
        "instances": proposals().to_rows() if fine else [],
    }
    return pa.Table.from_pylist([{"image_id": i, **row} for i in image_ids], schema.MASKS)
