"""Predicting a whole split: which images make up which batch, and what is remembered of each image.

A batch is some images of the split, in the store's order, with all of their sentences; it is made up from the split
alone, so however many workers share the batches, every expression is predicted once and with the same numbers.
Ray Data runs this in actors (`pipelines.evaluating.workers`); it runs in place as well.
"""

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mail import rle
from mail.data.images import ImageError, decode_image
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.row_groups import RowGroups, RowReader
from mail.data.schema import STATUS_OK
from mail.data.store import DataStore
from mail.errors import UserError
from mail.inference import Predictor
from mail.inventory import compared
from mail.metrics.accumulator import Accumulator
from mail.metrics.measure import iou
from mail.metrics.predictions import Prediction
from mail.metrics.selection import Choice, choose
from mail.model.folder import INVENTORIES
from mail.model.post_processing import chosen_proposals
from mail.proposals import Proposals

IMAGES_PER_READ = 256  # of whose proposals all are in memory


@dataclass(frozen=True)
class SplitImage:
    """An image of the split, with its expressions in the store's order."""

    image_id: str
    row: int  # in the store's image files
    size: tuple[int, int]  # (height, width) of the targets
    expr_ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class SplitPlan:
    """The images of a split, in batches."""

    expressions: pa.Table = field(repr=False)
    images: tuple[SplitImage, ...] = field(repr=False)
    images_per_batch: int

    @classmethod
    def read(cls, store: DataStore, split: str, images_per_batch: int) -> "SplitPlan":
        """Plan of a split.

        Raises:
            UserError: the store has no such split or nothing in it.
        """
        table = store.expressions([split])
        if not len(table):
            raise UserError(f"split {split!r} of {store.uri} has no expressions")
        rows = {image_id: n for n, image_id in enumerate(store.image_index["image_id"].to_pylist())}
        images = []
        expressions = table.select(["image_id", "expr_id", "text", "target"]).to_pylist()
        for image_id, group in groupby(expressions, key=lambda row: row["image_id"]):  # the store's are sorted by image
            own = list(group)
            height, width = own[0]["target"]["size"]
            expr_ids, texts = tuple(row["expr_id"] for row in own), tuple(row["text"] for row in own)
            images.append(SplitImage(image_id, rows[image_id], (height, width), expr_ids, texts))
        return cls(table, tuple(images), images_per_batch)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.images) // self.images_per_batch)

    def batch(self, number: int) -> tuple[SplitImage, ...]:
        return self.images[number * self.images_per_batch : (number + 1) * self.images_per_batch]


@dataclass
class SplitInput:
    """Reads the images and masks of any batch; cheap to send to other processes.

    Attributes:
        reader: of the image files' contents. batches: the images of each batch.
        snapshot: where proposals come from; None predicts without.
    """

    reader: RowReader
    batches: Sequence[tuple[SplitImage, ...]]
    snapshot: MaskSnapshot | None

    @classmethod
    def of(cls, store: DataStore, plan: SplitPlan, snapshot: MaskSnapshot | None) -> "SplitInput":
        groups = RowGroups.of(store, store.image_files)
        reader = RowReader(store.uri, groups, ["image"], cache_bytes=32 * 2**20)
        return cls(reader, [plan.batch(n) for n in range(len(plan))], snapshot)

    def read(self, number: int) -> dict[str, Any]:
        """The batch's file contents and mask-table rows: `images` list of bytes, `masks` list of rows or None."""
        wanted = self.batches[number]
        data = self.reader.take(np.array([i.row for i in wanted], np.int64))["image"].to_pylist()
        masks: list[dict[str, Any] | None] = [None] * len(wanted)
        if self.snapshot is not None:
            columns = ["image_id", "height", "width", "status", "instances"]
            found = {r["image_id"]: r for r in self.snapshot.read([i.image_id for i in wanted], columns).to_pylist()}
            masks = [found.get(i.image_id) for i in wanted]
        return {"images": data, "masks": masks}


@dataclass(frozen=True)
class ImageAnswer:
    """What is kept of an image: predictions of all of its expressions, what went wrong, and a small picture.

    Attributes:
        error: why the image could not be decoded; its predictions are empty then.
        masks_status: why the mask table has no instances of it; None if it has, or no masks are used.
        thumbnail: JPEG in base64, None without one.
    """

    image_id: str
    predictions: dict[str, Prediction]
    error: str | None = None
    masks_status: str | None = None
    thumbnail: str | None = None

    def to_line(self) -> str:
        """One line of JSON."""
        predictions = [p.to_json(e) for e, p in self.predictions.items()]
        return json.dumps(vars(self) | {"predictions": predictions}, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> "ImageAnswer":
        row = json.loads(line)
        row["predictions"] = dict(Prediction.from_json(p) for p in row["predictions"])
        return cls(**row)


def answer_batch(
    predictor: Predictor,
    batch: Sequence[SplitImage],
    data: Sequence[bytes],
    masks: Sequence[dict[str, Any] | None],
    threshold: float = 0.5,
    thumbnail_side: int | None = None,
) -> list[ImageAnswer]:
    """Predicts the expressions of a batch; an image that cannot be decoded gets empty masks and its reason."""
    pixels: dict[int, np.ndarray] = {}
    errors: dict[int, str] = {}
    for number, content in enumerate(data):
        try:
            pixels[number] = decode_image(content)
        except ImageError as error:
            errors[number] = f"{error.status}: {error}"
    usable = list(pixels)
    proposals = [_proposals(masks[n], pixels[n]) for n in usable]
    texts = [batch[n].texts for n in usable]
    found = predictor.predict_batch([pixels[n] for n in usable], texts, proposals, threshold) if usable else []
    segmentations = dict(zip(usable, found, strict=True))
    answers = []
    for number, image in enumerate(batch):
        row = masks[number]
        status = row["status"] if row is not None and row["status"] != STATUS_OK else None
        if number in errors:
            empty = {e: Prediction(None, 0.0) for e in image.expr_ids}
            answers.append(ImageAnswer(image.image_id, empty, errors[number], status))
            continue
        predictions = {
            expr_id: Prediction(rle.encode(s.mask) if s.mask.any() else None, s.score, chosen_proposals(s))
            for expr_id, s in zip(image.expr_ids, segmentations[number], strict=True)
        }
        small = thumbnail(pixels[number], thumbnail_side) if thumbnail_side else None
        answers.append(ImageAnswer(image.image_id, predictions, None, status, small))
    return answers


def answers(
    predictor: Predictor,
    source: SplitInput,
    numbers: Iterable[int],
    threshold: float = 0.5,
    thumbnail_side: int | None = None,
) -> Iterator[ImageAnswer]:
    """Predicts batches in place, one after another."""
    for number in numbers:
        content, batch = source.read(number), source.batches[number]
        yield from answer_batch(predictor, batch, content["images"], content["masks"], threshold, thumbnail_side)


def choices(
    expressions: pa.Table,
    snapshot: MaskSnapshot,
    predictions: Mapping[str, Prediction],
    accumulator: Accumulator,
    several: bool,
) -> dict[str, Choice]:
    """What was there to choose for each expression, and what was chosen, by `expr_id`.

    Args:
        expressions: rows with `expr_id`, `image_id`, `target`, sorted by image. accumulator: counts of the final masks.
        several: the network chooses each proposal by itself.
    """
    rows = expressions.select(["expr_id", "image_id", "target"]).to_pylist()
    images = [(image_id, list(own)) for image_id, own in groupby(rows, key=lambda row: row["image_id"])]
    found: dict[str, Choice] = {}
    for start in range(0, len(images), IMAGES_PER_READ):
        part = images[start : start + IMAGES_PER_READ]
        proposals = snapshot.proposals([image_id for image_id, _ in part])
        for image_id, own in part:
            rles = proposals[image_id].rles if image_id in proposals else []
            for row in own:
                expr_id = row["expr_id"]
                final = iou(accumulator.counts[expr_id], accumulator.protocol)
                found[expr_id] = choose(row["target"], rles, predictions[expr_id].selection, final, several)
    return found


def thumbnail(pixels: np.ndarray, side: int) -> str:
    """JPEG in base64 of an image whose longest side is at most `side` pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def check_masks(store: DataStore, images: Sequence[SplitImage], snapshot: MaskSnapshot) -> None:
    """Refuses masks that are missing or were made from another file than the store's.

    Raises:
        UserError: names the first few images and the number of them.
    """
    wanted = [i.image_id for i in images]
    snapshot.check_covers(wanted)
    rows = snapshot.read(wanted, ["image_id", "image_sha256"]).to_pylist()
    made_from = {r["image_id"]: r["image_sha256"] for r in rows}
    index = store.image_index
    own = dict(zip(index["image_id"].to_pylist(), index["sha256"].to_pylist(), strict=True))
    if other := [i for i in wanted if made_from[i] and made_from[i] != own[i]]:
        raise UserError(
            f"{snapshot.uri} has masks of other files than {store.uri} for {len(other)} images, first: "
            f"{', '.join(other[:3])}; run `mail-ris precompute` into another table"
        )


def model_files(folder: Path) -> dict[str, bytes]:
    """The files that a worker on another machine needs, compared with the folder's inventory.

    The proposer stays behind, for masks come from the table, and the inventory, which lists it.

    Raises:
        DamagedError: as of `load_model`.
    """
    with compared(folder, INVENTORIES):
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name not in INVENTORIES}


def _proposals(row: dict[str, Any] | None, pixels: np.ndarray) -> Proposals:
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if row is None or row["status"] != STATUS_OK:
        return Proposals(size)
    return Proposals.from_rows(row["instances"], (row["height"], row["width"]))
