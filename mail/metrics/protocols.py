"""Ways of counting, by name. Only `original` is ours; the others reproduce how published code counted.

A protocol says at what size pixels are counted, from which probability a pixel is foreground, what Prec@X means and
is a share of, and what empty against empty is worth: `docs/metrics.md` has them side by side, as `table` writes them.
**All of them count every sentence once**, as the test scripts of the peers do (LAVT's and CRIS's validation *during
training* takes one sentence a referent: those curves are not the published numbers and not reproduced here).

Whether a sentence has a target is the annotation's word in every one of them, also where squashing loses the target's
last pixel. As float32, .7 and .9 are a little less: IoU .7 counts for `cris`, .6 does not. `rela` knows a flag beside
the mask, "nothing is meant" (`no_target` of a prediction; without it, an empty mask says so): with the flag a sentence
that has a target gets an intersection of 0, whatever the mask, and one that has none IoU 1; without it, IoU 0. The
others look at the mask alone.

What is *not* reproduced, on purpose: ground truth that loses pixels where two polygons overlap (LAVT's loader), and
targets rasterised from polygons that were scaled to 480 first (ReLA's loader; a store holds masks, which are squashed).
The threshold applies where probabilities are at hand (`evaluate`); masks of a predictions file are counted as they are.
A peer's network predicts at its own resolution and never at the original one: `lavt` and `rela` squash a prediction
of the original resolution, and count one of 480x480 as it is. One that was enlarged smoothly is another.

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
        printed: how its evaluator writes figures; here none is rounded, but on the screen to two decimals of points.
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
    printed: str = "not rounded"
    description: str

    def prepare(self, mask: rle.RLE) -> rle.RLE:
        """The mask at the resolution at which this protocol counts."""
        if self.resolution is None or tuple(mask["size"]) == self.resolution:
            return mask
        return squash(mask, self.resolution)


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
            printed="points, 2 decimals",
            description="480x480 squashed, nearest, IoU >= X of all (LAVT)",
        ),
        Protocol(
            name="cris",
            threshold=0.35,
            strict=True,
            prec_of_all=True,
            empty_iou=0.0,
            added=1e-6,
            printed="points, 2 decimals; Prec@X as float32",
            description="threshold .35, IoU > X of all (CRIS)",
        ),
        Protocol(
            name="rela",
            resolution=(480, 480),
            flags=True,
            printed="points, not rounded; N-acc and T-acc fractions",
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


def table() -> str:
    """All protocols side by side, a row each, as Markdown."""
    head = "protocol, size, foreground, Prec@X counts, and is a share of, empty against empty, no target is said by"
    names = (*head.split(", "), "added to a union", "rounding")
    rows: list[tuple[str, ...]] = [names, ("---",) * len(names)]
    for p in PROTOCOLS.values():
        rows.append(
            (
                f"`{p.name}`",
                "the image's own" if p.resolution is None else "{} x {}, squashed, nearest".format(*p.resolution),
                f"from {p.threshold:g}",
                "IoU > X, X as float32" if p.strict else "IoU >= X",
                "all sentences" if p.prec_of_all else "sentences with a target",
                f"IoU {p.empty_iou:g}",
                "a flag, or an empty mask" if p.flags else "an empty mask",
                f"{p.added:g}",
                p.printed,
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
