"""Named settings of proposers: what to build, which detections to keep, how to train."""

from dataclasses import dataclass, replace

from mail.errors import UserError
from mail.proposers.config import NetworkConfig, SelectionConfig


@dataclass(frozen=True, kw_only=True)
class ProposerPreset:
    """One entry of `--preset`."""

    network: NetworkConfig
    selection: SelectionConfig
    steps: int
    batch_size: int
    learning_rate: float
    warm_up: int
    weight_decay: float = 1e-4


# COCO's photos, on GPUs; sizes are torchvision's
_R50 = ProposerPreset(
    network=NetworkConfig(architecture="r50-fpn", min_size=800, max_size=1333),
    selection=SelectionConfig(score_threshold=0.05, max_instances=50, box_nms=0.6, duplicate_iou=0.8),
    steps=90_000,
    batch_size=16,
    learning_rate=1e-4,
    warm_up=1000,
)

PRESETS = {
    # generated scenes of about 128 pixels, on a CPU, in about a minute
    "tiny": ProposerPreset(
        network=NetworkConfig(architecture="tiny", min_size=128, max_size=144),
        selection=SelectionConfig(score_threshold=0.2, max_instances=16, box_nms=0.6, duplicate_iou=0.75),
        steps=220,
        batch_size=8,
        learning_rate=3e-3,
        warm_up=20,
    ),
    "r50-fpn": _R50,
    "r50-fpn-v2": replace(_R50, network=replace(_R50.network, architecture="r50-fpn-v2")),
}


def preset(name: str) -> ProposerPreset:
    """The preset of this name; UserError lists them if there is none."""
    if name not in PRESETS:
        raise UserError(f"there is no proposer preset {name!r}: there are {', '.join(PRESETS)}")
    return PRESETS[name]
