"""Ways of counting, by name. Only `original` is ours; the others reproduce how published code counted.

A protocol says four things: the resolution at which pixels are counted, the probability at which a pixel is
foreground, whether Prec@X means `IoU >= X` or `IoU > X`, and which sentences of a referent count. **All of them count
every sentence once**, as the test scripts of the peers do (LAVT's and CRIS's validation *during training* takes one
sentence a referent: those curves are not the published numbers and not reproduced here).

| name | resolution | threshold | Prec@X | sentences | empty against empty |
|---|---|---|---|---|---|
| `original` | the image's own | .5 | `>=`, X = .5-.9 | every one | IoU 1 (a correct no-target) |
| `lavt` | 480x480, squashed, nearest | .5 (argmax of two classes) | `>=`, X = .5-.9 | every one | IoU 0 |
| `cris` | the image's own | .35 | `>`, X = .5-.9 | every one (its test mode) | IoU 0 |
| `rela` | 480x480, squashed, nearest | .5 (argmax) | `>=`, X = .7-.9 published | every one | IoU 1 for no-target |

What is *not* reproduced, on purpose: ground truth that loses pixels where two polygons overlap (LAVT's loader), the
1e-6 that CRIS adds to each union, and ReLA's T-acc as coded, TP / (TP + FP + 1): T-acc is TN / (TN + FP), as in its
paper. The threshold applies where probabilities are at hand (`evaluate`); masks of a predictions file are counted as
they are. A peer's network predicts at its own resolution and never at the original one, so `lavt` and `rela` squash our
original-resolution prediction; the difference is below a pixel's rounding.

Sources: yz93/LAVT-RIS `test.py` and `transforms.py`, DerrickWang005/CRIS.pytorch `engine/engine.py` and
`utils/dataset.py`, henghuiding/ReLA `gres_model/evaluation/refer_evaluation.py`.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mail import rle
from mail.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One way of counting.

    Attributes:
        name: what every printed number carries.
        resolution: (height, width) to which both masks are squashed before counting; None for the image's own.
        threshold: probability from which a pixel is foreground.
        strict: Prec@X counts `IoU > X` instead of `IoU >= X`.
        empty_iou: IoU of an empty prediction for an empty target, 1.0 or 0.0.
        description: one line for people.
    """

    name: str
    resolution: tuple[int, int] | None = None
    threshold: float = 0.5
    strict: bool = False
    empty_iou: float = 1.0
    description: str

    def prepare(self, mask: rle.RLE) -> rle.RLE:
        """The mask at the resolution at which this protocol counts."""
        return mask if self.resolution is None else squash(mask, self.resolution)


def squash(mask: rle.RLE, size: tuple[int, int]) -> rle.RLE:
    """Mask resized to `size` (H, W) without keeping its aspect, by Pillow's nearest neighbour as LAVT's loader does."""
    picture = Image.fromarray(rle.decode(mask).view(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    return rle.encode(np.asarray(picture))


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(name="original", description="original resolution, threshold .5, Prec@X is IoU >= X"),
        Protocol(
            name="lavt", resolution=(480, 480), empty_iou=0.0, description="480x480 squashed, nearest, IoU >= X (LAVT)"
        ),
        Protocol(name="cris", threshold=0.35, strict=True, empty_iou=0.0, description="threshold .35, IoU > X (CRIS)"),
        Protocol(name="rela", resolution=(480, 480), description="480x480 squashed, nearest, gRefCOCO rules (ReLA)"),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises UserError with the known names."""
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
