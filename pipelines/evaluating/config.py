"""The options of an evaluation: flags of `mail-ris evaluate`, arguments for whoever evaluates in Python."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from pipelines.options import Address, LocalPathOrParent, LocalTarget, ModelAddress, Options


@dataclass(kw_only=True)
class EvaluationConfig(Options):
    """Which model on what, and what to write."""

    model: ModelAddress
    """MODEL: a folder, a checkpoint, or a registry address such as models:/mail-ris@champion."""

    data: Address
    """Data store (local path or s3://)."""

    split: str
    """Split to evaluate, always as a whole: val, testA, ..."""

    out: LocalTarget
    """Folder for the results."""

    masks: Address | None = None
    """Mask table with the instance masks of the split's images."""

    no_proposals: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Predict without instance masks, whatever the model was trained with."""

    proposer_id: str | None = None
    """Proposer whose masks to read, where the table holds several (default: the one the model was trained with)."""

    protocol: str = "original"
    """How pixels are counted: original, or as published code does it: lavt, cris, rela."""

    workers: int | None = None
    """Actors that predict (default: one a GPU, else one for two CPUs). The numbers do not depend on it. 0: predict in
    this process, without Ray, which is quickest for some hundred expressions."""

    batch_images: int = 8
    """Images, each with all of its sentences, that are predicted together."""

    compare: LocalPathOrParent | None = None
    """Folder of another evaluation of this split: side by side in the gallery, with a paired bootstrap. `parent`: the
    model that this one goes on from (`train --from`), on this data and on its own, which shows what is forgotten."""

    allow_leaky: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Evaluate although the proposer or the model saw images of the split; the results are labelled leaky."""

    gallery: bool = True
    """Write gallery.html."""
