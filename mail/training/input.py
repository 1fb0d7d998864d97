"""From row numbers to tensors: reads, decodes, rasterises and collates the parts of a training step.

`TrainingInput` is cheap to send to other processes and opens what it needs there; Ray runs it in tasks
(`pipelines.training.input`), tests and bare machines run it in place (`batches`). Both give the same tensors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mail.data.epoch_plan import Batch, EpochPlan
from mail.data.expression_index import ExpressionIndex
from mail.data.images import ImageError, open_image, upright_rgb
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.rehearsal import JoinedMasks, JoinedRows, RehearsedPlan
from mail.data.row_groups import RowReader
from mail.data.schema import STATUS_OK
from mail.data.store import DataStore
from mail.errors import UserError
from mail.model import MailProcessor
from mail.proposals import Proposals
from mail.training.step import TrainingBatch

IMAGE_CACHE_BYTES = 96 * 2**20
EXPRESSION_CACHE_BYTES = 64 * 2**20


@dataclass
class TrainingInput:
    """All that is needed to build any batch of a run.

    Attributes:
        store_uri: the data store. image_rows, expression_rows: read what is needed of it, by row number.
        snapshot: the instance masks; None trains without proposals.
        processor: the network's.
        seed, proposal_dropout: which images go without their proposals in a step.
    """

    store_uri: str
    image_rows: RowReader | JoinedRows
    expression_rows: RowReader | JoinedRows
    snapshot: MaskSnapshot | JoinedMasks | None
    processor: MailProcessor
    seed: int = 0
    proposal_dropout: float = 0.0

    def build(self, wanted: Sequence[Batch]) -> Iterator[TrainingBatch]:
        """Builds batches one after another; the masks of all of their images are read at once."""
        proposals: dict[str, Proposals] = {}
        if self.snapshot is not None:
            rows = np.unique(np.concatenate([b.images for b in wanted]))
            proposals = self.snapshot.proposals(self.image_rows.take(rows)["image_id"].to_pylist())
        for batch in wanted:
            yield TrainingBatch(batch, self._tensors(batch, proposals))

    def images(self, rows: np.ndarray) -> tuple[list[np.ndarray], list[Proposals]]:
        """Pixels (H, W, 3) and proposals of images by row number."""
        found = self.image_rows.take(rows).to_pylist()
        pixels = [np.array(self._decode(image)) for image in found]
        masks = self.snapshot.proposals([i["image_id"] for i in found]) if self.snapshot is not None else {}
        sizes = [(int(p.shape[0]), int(p.shape[1])) for p in pixels]
        return pixels, [masks.get(i["image_id"], Proposals(s)) for i, s in zip(found, sizes, strict=True)]

    def expressions(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """`text` and `target` of expressions by row number."""
        return self.expression_rows.take(rows).to_pylist()

    def _decode(self, image: dict[str, Any]) -> Image.Image:
        try:
            return upright_rgb(open_image(image["image"]))
        except ImageError as error:
            raise UserError(
                f"image {image['image_id']} of {self.store_uri} cannot be decoded ({error}): a mask table of the "
                "store as it is now knows which images to leave out, give that as --masks"
            ) from None

    def _tensors(self, batch: Batch, proposals: dict[str, Proposals]) -> dict[str, torch.Tensor]:
        # the expressions of one image together, images in the order of their first expression
        _, first, inverse = np.unique(batch.images, return_index=True, return_inverse=True)
        order = np.argsort(first[inverse], kind="stable")
        image_rows, counts = batch.images[np.sort(first)].astype(np.int64), np.bincount(inverse)[np.argsort(first)]
        sentences = self.expression_rows.take(batch.rows[order]).to_pylist()
        words = self.processor.encode_texts([s["text"] for s in sentences])
        items, start = [], 0
        for row, count, image in zip(image_rows, counts, self.image_rows.take(image_rows).to_pylist(), strict=True):
            own = slice(start, start + count)
            start += count
            targets = [s["target"] for s in sentences[own]]
            texts = {name: each[own] for name, each in words.items()}
            items.append(self._item(batch.step, int(row), image, targets, proposals) | {"texts": texts})
        return self.processor.collate(items)

    def _item(self, step: int, row: int, image: dict, targets: list, proposals: dict[str, Proposals]) -> dict:
        picture = self._decode(image)
        found = Proposals((picture.height, picture.width))
        if not self._withheld(step, row):
            found = proposals.get(image["image_id"], found)
        return {
            "image": self.processor.encode_image(picture),
            "proposals": self.processor.encode_proposals(found),
            "targets": self.processor.encode_targets(targets, found),
        }

    def _withheld(self, step: int, row: int) -> bool:
        """Whether the image goes without proposals in this step: the same for every worker that has a part of it."""
        if not self.proposal_dropout:
            return False
        draw = np.random.PCG64(np.random.SeedSequence([self.seed, step, row])).random_raw()
        return draw < self.proposal_dropout * 2**64


def batches(
    source: TrainingInput,
    plan: EpochPlan | RehearsedPlan,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    micro: int | None = None,
) -> Iterator[TrainingBatch]:
    """The batches of a worker, built in place, one after another."""
    for batch in plan.batches(start, stop, rank, world, micro):
        yield from source.build([batch])


def unusable_images(snapshot: MaskSnapshot) -> dict[str, str]:
    """Images of a mask table that gave no masks because they could not be read, with the reason."""
    found = {}
    for batch in snapshot.batches(["image_id", "status"], batch_size=65536):
        for row in batch.to_pylist():
            if row["status"] != STATUS_OK:
                found[row["image_id"]] = row["status"]
    return found


def training_input(
    store: DataStore,
    index: ExpressionIndex,
    snapshot: MaskSnapshot | None,
    processor: MailProcessor,
    seed: int = 0,
    proposal_dropout: float = 0.0,
) -> TrainingInput:
    """The input of a run over `index`."""
    images = RowReader(store.uri, index.image_groups, ["image_id", "image"], IMAGE_CACHE_BYTES)
    expressions = RowReader(store.uri, index.expression_groups, ["text", "target"], EXPRESSION_CACHE_BYTES)
    return TrainingInput(store.uri, images, expressions, snapshot, processor, seed, proposal_dropout)


def texts(store: DataStore, split: str) -> list[str]:
    """All texts of a split, for making a vocabulary."""
    return store.expressions([split], ["text"])["text"].to_pylist()
