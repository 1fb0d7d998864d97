"""The options of a reproduction: flags of `mail-ris reproduce`, arguments for whoever does it in Python."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from pipelines.options import Address, HubName, LocalPath, LocalTarget, Options, Seen, Target
from pipelines.training.shares import Workers


@dataclass(kw_only=True)
class ReproduceConfig(Options):
    """Which rows, from what data, with which network."""

    out: Target = "runs/reproduce"
    """Folder for everything that is made; on a cluster one that all nodes see, or s3://."""

    root: LocalPath | None = None
    """Folder that holds RefCOCO, RefCOCO+ and RefCOCOg as they are published, as of `prepare`."""

    download: LocalTarget | None = None
    """Instead: folder that they are fetched into first, as of `prepare`."""

    mirror: str | None = None
    """Address of a folder on a server that --download asks first."""

    images: LocalPath | None = None
    """Folder of the photos, if it is not where they are published to be."""

    rows: tuple[str, ...] = ()
    """Rows of the table (default: all): refcoco-unc/val, refcocog-google/val, ..."""

    seeds: int = 1
    """Trainings of each data set, with seeds 0, 1, ..."""

    preset: str = "vilt-b32"
    """Network and recipe, as of `train`."""

    pretrained: HubName | None = None
    """As of `train`: ViLT weights to start from (default: the preset's)."""

    tokenizer: HubName | None = None
    """As of `train`: vocabulary (default: the preset's)."""

    steps: int | None = None
    """Training steps of each network (default: the preset's)."""

    ablate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train and evaluate each network without instance masks as well."""

    proposer: Address | None = None
    """PROPOSER that saw no evaluation image of any of the three data sets (default: one is trained)."""

    instances: Address | None = None
    """COCO instances that the proposer is trained on (default: annotations/instances_train2014.json of the data, if it
    is there, else those that come with RefCOCO)."""

    proposer_preset: Literal["tiny", "r50-fpn", "r50-fpn-v2"] = "r50-fpn-v2"
    """As --preset of `train-proposer`."""

    proposer_steps: int | None = None
    """As --steps of `train-proposer`."""

    proposer_weights: Address | None = None
    """As --weights of `train-proposer`: a ResNet-50 that was trained for ImageNet, for example."""

    proposer_weights_images: tuple[Seen, ...] = ()
    """As --weights-images of `train-proposer`."""

    workers: Workers = 1
    """Train workers, as of `train`."""

    evaluation_workers: int | None = None
    """Actors that evaluate, as --workers of `evaluate`."""

    gpu_speed: float = 1151.0
    """Expressions a second that one GPU trains, for --dry-run: `vilt-b32` on an H100, see docs/scaling.md."""

    gpu_price: float | None = None
    """What an hour of a GPU costs, for --dry-run."""
