"""The options of a fine-tuning: flags of `mail-ris fine-tune`, arguments for whoever does it in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mail import addresses
from pipelines.options import Address, LocalTarget, ModelAddress, Options
from pipelines.training.shares import Workers


@dataclass(kw_only=True)
class FineTuneConfig(Options):
    """Which model on what photos and sentences."""

    from_: Annotated[ModelAddress, tyro.conf.arg(name="from")]
    """MODEL to go on from: a folder, runs:/ID, models:/mail-ris@champion."""

    name: str
    """Name of the new run, and of the data set that is prepared."""

    expressions: Address | None = None
    """File of expressions, as `prepare custom` takes it."""

    images: Address | None = None
    """Folder of the photos, if not the one of the expressions."""

    instances: Address | None = None
    """COCO instances.json that ids of annotations in the expressions are of."""

    data: Address | None = None
    """Instead of all three: a data store that is there."""

    proposer: Address | None = None
    """PROPOSER that proposes masks (default: the model's own)."""

    out: LocalTarget | None = None
    """Folder for everything that is made (default: runs/NAME)."""

    split: tuple[str, ...] = ()
    """Splits to evaluate on (default: all that are not trained on or chosen by)."""

    steps: int | None = None
    """Training steps (default: as of `train --from`)."""

    learning_rate: float | None = None
    """Peak learning rate (default: as of `train --from`)."""

    patience: int | None = None
    """As of `train`."""

    seed: int = 0
    """Seed of the training."""

    rehearse: Address | None = None
    """Data store of which a share is trained on as well, so that it is not forgotten."""

    rehearse_masks: Address | None = None
    """Its mask table (default: the one that the model was trained with)."""

    share: float = 0.3
    """Share of every step that is rehearsed, with --rehearse."""

    workers: Workers = 0
    """Train workers; 0 trains in this process, on its GPU where there is one."""

    threads: int | None = None
    """Torch threads without a GPU."""

    allow_leaky: bool = False
    """Go on although evaluation images were seen; everything is labelled leaky."""

    promote: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Make the new model the champion, if it passes the gates of `models promote`."""

    max_forgotten: float | None = None
    """With --promote: as of `models promote`."""

    pictures: int = 8
    """Expressions with pictures in the report: at random, and half as many of those won and lost most."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out or addresses.local_path(addresses.join("runs", self.name))
