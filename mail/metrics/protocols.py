"""Ways of counting, by name. Only `original` is ours; the others reproduce how published code counted.

A protocol says four things: the resolution at which pixels are counted, the probability at which a pixel is
foreground, whether Prec@X means `IoU >= X` or `IoU > X`, and which sentences of a referent count. **All of them count
every sentence once**, as the test scripts of the peers do (LAVT's and CRIS's validation *during training* takes one
sentence a referent: those curves are not the published numbers and not reproduced here).

| name | resolution | foreground | Prec@X | of | empty against empty | added to a union |
|---|---|---|---|---|---|---|
| `original` | the image's own | .5 | `>=` .5-.9 | sentences with a target | IoU 1 (a correct no-target) | 0 |
| `lavt` | 480x480, squashed, nearest | argmax of two (.5) | `>=` .5-.9 | all sentences | IoU 0 | 0 |
| `cris` | the image's own | .35 | `>` .5-.9 as float32 | all sentences | IoU 0 | 1e-6 |
| `rela` | 480x480, squashed, nearest | argmax of two (.5) | `>=` .7-.9 | sentences with a target | IoU 1 if said | 0 |

Whether a sentence has a target is the annotation's word in every one of them, also where squashing loses the target's
last pixel. As float32, .7 and .9 are a little less: IoU .7 counts for `cris`, .6 does not. `rela` knows a flag beside
the mask, "nothing is meant" (`no_target` of a prediction; without it, an empty mask says so): with the flag a sentence
that has a target gets an intersection of 0, whatever the mask, and one that has none IoU 1; without it, IoU 0. The
others look at the mask alone.

What is *not* reproduced, on purpose: ground truth that loses pixels where two polygons overlap (LAVT's loader), and
targets rasterised from polygons that were scaled to 480 first (ReLA's loader; a store holds masks, which are squashed).
The threshold applies where probabilities are at hand (`evaluate`); masks of a predictions file are counted as they are.
A peer's network predicts at its own resolution and never at the original one, so `lavt` and `rela` squash our
original-resolution prediction; one that was made at 480x480 comes back if it was enlarged by nearest neighbour, and is
another one if it was enlarged smoothly.

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
        strict: Prec@X counts `IoU > X`, X as float32, instead of `IoU >= X`.
        prec_of_all: Prec@X is a share of all sentences instead of those with a target.
        empty_iou: IoU of a prediction that nothing is meant where nothing is, 1.0 or 0.0.
        added: to each union.
        flags: a prediction may say beside its mask that nothing is meant.
        description: one line for people.
    """

    name: str
    resolution: tuple[int, int] | None = None
    threshold: float = 0.5
    strict: bool = False
    prec_of_all: bool = False
    empty_iou: float = 1.0
    added: float = 0.0
    flags: bool = False
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
            name="lavt",
            resolution=(480, 480),
            prec_of_all=True,
            empty_iou=0.0,
            description="480x480 squashed, nearest, IoU >= X of all (LAVT)",
        ),
        Protocol(
            name="cris",
            threshold=0.35,
            strict=True,
            prec_of_all=True,
            empty_iou=0.0,
            added=1e-6,
            description="threshold .35, IoU > X of all (CRIS)",
        ),
        Protocol(
            name="rela",
            resolution=(480, 480),
            flags=True,
            description="480x480 squashed, nearest, gRefCOCO rules (ReLA)",
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`. Raises UserError with the known names."""
    if name not in PROTOCOLS:
        hint = " (gRefCOCO's rules as published are rela)" if "gref" in name.lower() else ""
        raise UserError(f"there is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]
