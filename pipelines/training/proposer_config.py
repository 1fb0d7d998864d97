"""The options of a proposer's training: flags of `mail-ris train-proposer`."""

from dataclasses import dataclass
from typing import Literal

from mail.data.orientation import AS_SHOWN, ExifAnnotated
from pipelines.options import Address, LocalPath, Options, Seen, Target


@dataclass(kw_only=True)
class ProposerTrainingConfig(Options):
    """What to train a Mask R-CNN on, and what it must not see."""

    instances: Address
    """COCO `instances.json`, local or s3://."""

    images: Address
    """Folder of the photos that it names."""

    out: Target
    """Folder of the new proposer. If it holds an unfinished training of the same config, that goes on."""

    preset: Literal["tiny", "r50-fpn", "r50-fpn-v2"] = "tiny"
    """tiny: generated scenes on a CPU, about a minute. r50-fpn, r50-fpn-v2: torchvision's, for COCO on GPUs."""

    steps: int | None = None
    """Optimizer steps (default: the preset's)."""

    batch_size: int | None = None
    """Images a step, over all workers together (default: the preset's)."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW (default: the preset's)."""

    min_size: int | None = None
    """Images are resized to this shorter side (default: the preset's)."""

    max_size: int | None = None
    """Largest longer side after resizing (default: the preset's)."""

    workers: int = 1
    """Ray Train workers; each takes a GPU where the cluster has that many. 0 trains in this very process."""

    class_agnostic: bool = True
    """One class for everything, which is all that the network needs; otherwise one a category."""

    weights: Address | None = None
    """State dict to start from (.safetensors or .pth): torchvision's Mask R-CNN, or a ResNet-50 as backbone."""

    weights_images: tuple[Seen, ...] = ()
    """What --weights saw, as --images-seen of import-proposer, or `none` if nothing with masks (an ImageNet
    classifier). A proposer's weights, and those that torchvision published, tell it themselves. Otherwise the origin is
    unknown, and everything made with it counts as leaky."""

    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""

    exclude: Address | None = None
    """File with ids of images that must not be trained on: one a line, or a JSON list."""

    exclude_eval_of: str = ""
    """Data sets, separated by commas, whose val and test images must not be trained on:
    refcoco,refcoco+,refcocog,grefcoco."""

    refs_root: LocalPath | None = None
    """Folder that holds `refcoco/refs(unc).p` and so on; needed for --exclude-eval-of."""

    exclude_store: Address | None = None
    """Data store whose val and test images must not be trained on."""

    namespace: str = ""
    """What image ids begin with (default: as those of --exclude-store, else `coco`)."""

    holdout_fraction: float = 0.05
    """Share of the images that is kept for measuring the recall ..."""

    max_held_out: int = 200
    """... but at most so many."""

    checkpoint_every: int = 500
    """Steps between checkpoints."""

    seed: int = 0
    """Of the initial weights and the order of the images."""

    def __post_init__(self) -> None:
        # callers in Python may name one
        self.weights_images = (self.weights_images,) if isinstance(self.weights_images, str) else self.weights_images
        super().__post_init__()
