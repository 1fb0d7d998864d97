"""A quick, exact look at a held-out split during training: the same prediction and the same counting as `evaluate`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mail import rle
from mail.data.expression_index import ExpressionIndex
from mail.inference import Predictor
from mail.metrics import count
from mail.metrics.measure import iou
from mail.report.overlay import overlay
from mail.training.compiling import eagerly
from mail.training.input import TrainingInput

IMAGES_PER_BATCH = 8
THRESHOLDS = np.arange(1, 20) / 20  # of the probability that nothing is meant, which are tried
ENOUGH_WITHOUT_TARGET = 20  # sentences to choose one by


@dataclass(frozen=True)
class Validation:
    """The expressions to validate on.

    Attributes:
        split: their split.
        rows, images: int64 (M,) row numbers of the expressions and of their images, in the store's order.
    """

    split: str
    rows: np.ndarray
    images: np.ndarray = field(repr=False)

    @classmethod
    def choose(cls, index: ExpressionIndex, split: str, limit: int) -> "Validation":
        """At most `limit` expressions, evenly spread over the split: the same at every validation."""
        chosen = np.unique(np.linspace(0, len(index) - 1, min(limit, len(index))).round().astype(np.int64))
        return cls(split, index.row[chosen], index.image[chosen].astype(np.int64))


@eagerly()
def sample_overlays(
    model: Any, source: TrainingInput, validation: Validation, device: torch.device, count: int = 4
) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 of the model's answers to some of the expressions, with the ground truth outlined.

    They are the same expressions, evenly spread, every time.
    """
    predictor = Predictor(model, source.processor, None, device)
    chosen = np.unique(np.linspace(0, len(validation.rows) - 1, count).round().astype(np.int64))
    pictures = []
    for row, image in zip(validation.rows[chosen], validation.images[chosen], strict=True):
        (pixels,), proposals = source.images(np.array([image]))
        (sentence,) = source.expressions(np.array([row]))
        answer = predictor.predict_batch([pixels], [[sentence["text"]]], proposals)[0][0]
        picture = overlay(pixels, answer.mask, rle.decode(sentence["target"]), text=sentence["text"])
        pictures.append(np.asarray(picture.convert("RGB")))
    model.train()
    return pictures


@eagerly()
def validate(
    model: Any, source: TrainingInput, validation: Validation, rank: int, world: int, device: torch.device
) -> dict[str, Any]:
    """oIoU, mIoU and Prec@.5 at the original resolution, every expression once; every worker takes its share.

    Where enough expressions name nothing, the processor's `no_target_threshold` becomes the one of `THRESHOLDS` that is
    best for them all, by mIoU, which is gIoU here: a sentence rightly left without a mask counts 1.

    Returns:
        `oIoU`, `mIoU`, `prec_50`, `expressions`, `no_target_threshold`; the same on all workers.
    """
    total = len(validation.rows)
    mine = slice(rank * total // world, (rank + 1) * total // world)
    rows, images = validation.rows[mine], validation.images[mine]
    predictor = Predictor(model, source.processor, None, device)
    # by threshold intersections, unions, IoUs, IoUs of at least .5, expressions, without a target: integers stay exact
    sums = np.zeros((len(THRESHOLDS), 6))
    numbers = np.unique(images)
    for start in range(0, len(numbers), IMAGES_PER_BATCH):
        some = numbers[start : start + IMAGES_PER_BATCH]
        own = [rows[images == number] for number in some]
        pixels, proposals = source.images(some)
        sentences = [source.expressions(r) for r in own]
        texts = [[s["text"] for s in group] for group in sentences]
        answers = predictor.predict_batch(pixels, texts, proposals, no_target_threshold=1.0)
        for group, found in zip(sentences, answers, strict=True):
            for sentence, answer in zip(group, found, strict=True):
                drawn, withheld = (_figures(m, sentence["target"]) for m in (rle.encode(answer.mask), None))
                sums += np.where(answer.no_target_probability > THRESHOLDS[:, None], withheld, drawn)
    model.train()
    if world > 1:
        gathered = torch.from_numpy(sums).to(device)
        torch.distributed.all_reduce(gathered)
        sums = gathered.cpu().numpy()
    if sums[0, 5] >= ENOUGH_WITHOUT_TARGET:
        best = max(range(len(THRESHOLDS)), key=lambda n: (sums[n, 2], -abs(THRESHOLDS[n] - 0.5)))
        source.processor.no_target_threshold = float(THRESHOLDS[best])
    else:
        best = int(np.abs(THRESHOLDS - source.processor.no_target_threshold).argmin())
    intersections, unions, ious, good, expressions, _ = sums[best].tolist()
    return {
        "oIoU": intersections / max(unions, 1),
        "mIoU": ious / max(expressions, 1),
        "prec_50": good / max(expressions, 1),
        "expressions": int(expressions),
        "no_target_threshold": source.processor.no_target_threshold,
    }


def _figures(mask: rle.RLE | None, target: rle.RLE) -> np.ndarray:
    """What an answer adds to the sums of `validate`."""
    counts = count(mask, target)
    value = iou(counts)
    return np.array([counts.intersection, counts.union, value, value >= 0.5, 1, counts.no_target], float)
