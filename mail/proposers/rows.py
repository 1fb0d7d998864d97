"""From a data store's images to rows of the mask table: what to read, decoding row by row, proposing. Without Ray.

An image that cannot be decoded, or that the proposer fails on, becomes a row with its reason. Nothing ends the job but
what would end it for every image.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mail.data import files, schema
from mail.data.images import ImageError, decode_image
from mail.data.parquet import ParquetReader
from mail.data.store import DataStore
from mail.proposers import Proposer
from mail.proposers.folder import ProposerFolder
from mail.proposers.paste import Detections

DECODED = pa.schema(
    [
        ("image_id", pa.string()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("pixels", pa.large_binary()),  # uint8 (height, width, 3), null if it could not be decoded
    ]
)

DETECTED = pa.schema(
    [
        *(f for f in DECODED if f.name != "pixels"),
        (
            "detections",
            pa.struct(
                [
                    ("boxes", pa.list_(pa.float32())),
                    ("scores", pa.list_(pa.float32())),
                    ("labels", pa.list_(pa.int32())),
                    ("sizes", pa.list_(pa.int32())),
                    ("masks", pa.large_binary()),
                    ("dtype", pa.string()),
                    ("edge", pa.bool_()),
                ]
            ),
        ),
    ]
)
"""`detections` is `Detections.to_row`, null where nothing was looked for."""


@dataclass(frozen=True)
class WorkUnit:
    """Some pending images of one file of a store."""

    file: str  # relative to the store
    row_groups: tuple[int, ...]
    image_ids: tuple[str, ...] | None  # those that are pending; None: all of these row groups
    images: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkUnit":
        raw = json.loads(text)
        ids = None if raw["image_ids"] is None else tuple(raw["image_ids"])
        return cls(raw["file"], tuple(raw["row_groups"]), ids, raw["images"])


def plan_units(store: DataStore, pending: pa.Array, images_per_unit: int) -> Iterator[WorkUnit]:
    """Cuts the pending images into units of about this many, each a run of row groups of one file."""
    for file in store.image_files:
        parquet = store.open(file)
        keys = parquet.read(["image_id"])["image_id"].combine_chunks()
        wanted = pc.is_in(keys, value_set=pending).to_numpy(zero_copy_only=False)
        start = 0
        groups: list[int] = []
        chosen: list[int] = []
        rows = 0
        for group in range(parquet.metadata.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            inside = np.flatnonzero(wanted[start : start + size]) + start
            if len(inside):
                groups.append(group)
                chosen += inside.tolist()
                rows += size
            start += size
            if groups and (len(chosen) >= images_per_unit or group == parquet.metadata.num_row_groups - 1):
                ids = None if len(chosen) == rows else tuple(keys.take(pa.array(chosen)).to_pylist())
                yield WorkUnit(file.path, tuple(groups), ids, len(chosen))
                groups, chosen, rows = [], [], 0


def decode_unit(store_uri: str, unit: WorkUnit, max_pixels: int) -> pa.Table:
    """The images of a unit as pixels (`DECODED`), those of like shape together: a batch is padded to its largest."""
    filesystem, root = files.resolve(store_uri)
    columns = ["image_id", "image", "height", "width", "sha256"]
    table = ParquetReader(filesystem, f"{root}/{unit.file}").read(columns, unit.row_groups)
    if unit.image_ids is not None:
        table = table.filter(pc.is_in(table["image_id"], value_set=pa.array(unit.image_ids, pa.string())))
    rows = []
    for row in sorted(table.to_pylist(), key=lambda row: row["height"] / max(1, row["width"])):
        data = row.pop("image")
        try:
            pixels = decode_image(data or b"", max_pixels)
        except ImageError as error:
            rows.append({**row, "status": error.status, "error": str(error), "pixels": None})
        else:
            height, width = pixels.shape[:2]
            size = {"height": height, "width": width}
            rows.append({**row, **size, "status": schema.STATUS_OK, "error": None, "pixels": pixels.tobytes()})
    return pa.Table.from_pylist(rows, DECODED)


def propose_rows(proposer: Proposer, decoded: pa.Table) -> pa.Table:
    """Rows of the mask table (`schema.MASKS`) for decoded images (`DECODED`), in their order."""
    return select_rows(proposer, detect_rows(proposer, decoded))


def detect_rows(proposer: Proposer, decoded: pa.Table) -> pa.Table:
    """The network's share of `propose_rows`: what it found (`DETECTED`); `select_rows` does the rest elsewhere."""
    rows = decoded.drop_columns(["pixels"]).to_pylist()
    images = [
        pixels.reshape(row["height"], row["width"], 3)
        for row, pixels in zip(rows, _values(decoded["pixels"]), strict=True)
        if row["status"] == schema.STATUS_OK
    ]
    found = iter(_one_by_one_if_need_be(proposer, images))
    for row in rows:
        one = next(found) if row["status"] == schema.STATUS_OK else None
        row["detections"] = one.to_row() if isinstance(one, Detections) else None
        if isinstance(one, Exception):
            row |= _blamed(one)
    return pa.Table.from_pylist(rows, DETECTED)


def select_rows(selector: Proposer | ProposerFolder, detected: pa.Table) -> pa.Table:
    """Rows of the mask table for what a network found: pasted, encoded and selected, without the network."""
    rows = []
    for row in detected.to_pylist():
        row |= {"proposer_id": selector.proposer_id, "image_sha256": row["sha256"], "instances": []}
        if row["detections"] is not None:
            found = Detections.from_row(row["detections"])
            try:
                row["instances"] = selector.select(found, (row["height"], row["width"])).to_rows()
            except Exception as error:
                row |= _blamed(error)
        rows.append(row)
    return pa.Table.from_pylist(rows, schema.MASKS)


def _values(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """The bytes of each value of a large_binary column, uint8, where they lie: Arrow's scalars are copies."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        content = np.frombuffer(data or b"", np.uint8)
        ends = np.frombuffer(offsets or b"", np.int64)[chunk.offset :]
        yield from (content[ends[i] : ends[i + 1]] for i in range(len(chunk)))


def _blamed(error: Exception) -> dict[str, Any]:
    return {"status": schema.STATUS_PROPOSER_ERROR, "error": f"{type(error).__name__}: {error}"}


def _one_by_one_if_need_be(proposer: Proposer, images: list[np.ndarray]) -> list[Detections | Exception]:
    """What is found in each image; where a batch fails, its images are tried one by one to find the one to blame."""
    if not images:
        return []
    try:
        return list(proposer.detect(images))
    except Exception as error:
        if _device_is_lost(error):
            raise
        if len(images) == 1:
            return [error]
    return [found for image in images for found in _one_by_one_if_need_be(proposer, [image])]


def _device_is_lost(error: Exception) -> bool:
    """Errors after which a GPU gives nothing but errors: the process must end, not blame every image."""
    import torch

    lost = isinstance(error, torch.AcceleratorError | torch.cuda.DeferredCudaCallError)
    return lost and not isinstance(error, torch.OutOfMemoryError)
