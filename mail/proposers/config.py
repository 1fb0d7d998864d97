"""What a proposer's weights were trained for, and which of its detections become proposals."""

from dataclasses import dataclass
from typing import Any

from mail.errors import UserError

ARCHITECTURES = ("tiny", "r50-fpn", "r50-fpn-v2")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the weights were trained for."""

    architecture: str = "tiny"
    categories: tuple[tuple[int, str], ...] = ((1, "thing"),)
    """(id, name) of each foreground class, in the order of the network's outputs; one: class-agnostic."""

    min_size: int = 128
    """Images are resized so that the shorter side has this many pixels ..."""

    max_size: int = 144
    """... unless the longer one would have more than this."""

    frozen_norm: bool = False
    """Batch norm with fixed statistics in the ResNet (as in torchvision's published weights)."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UserError(f"no proposer architecture {self.architecture!r}: there are {', '.join(ARCHITECTURES)}")

    @property
    def name(self) -> str:
        """What proposers of this network are called."""
        return f"maskrcnn-{self.architecture}"

    @property
    def classes(self) -> tuple[int, ...] | None:
        """COCO category ids in the order of the network's classes; None: all instances are one class."""
        return tuple(number for number, _ in self.categories) if len(self.categories) > 1 else None

    def sees(self, height: int, width: int) -> bool:
        """Whether an image has a pixel along its shorter side when its longer one is made to fit."""
        return min(height, width) * self.max_size > max(height, width)


@dataclass(frozen=True, kw_only=True)
class Mask2FormerNetwork:
    """A Mask2Former of transformers: everything but the weights that its checkpoint folder says."""

    config: dict[str, Any]
    """`config.json` of the checkpoint."""

    processor: dict[str, Any]
    """`preprocessor_config.json`: sizes, mean and standard deviation."""

    categories: tuple[tuple[int, str], ...]
    """(id, name) of each class but the last, "nothing", in the order of the network's outputs."""

    architecture: str = "mask2former"

    @property
    def name(self) -> str:
        backbone = (self.config.get("backbone_config") or {}).get("model_type", "backbone")
        return f"mask2former-{backbone}"

    def sees(self, height: int, width: int) -> bool:
        """Whether an image has a pixel along its shorter side when its longer one is made to fit."""
        longest = (self.processor.get("size") or {}).get("longest_edge")
        return longest is None or min(height, width) * longest > max(height, width)


Network = NetworkConfig | Mask2FormerNetwork


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which of the network's detections become proposals."""

    score_threshold: float = 0.05
    """Detections with score >= this are kept."""

    max_instances: int = 24
    """At most this many an image, best first, after duplicates were removed."""

    box_nms: float = 0.7
    """Of two boxes of a class that overlap with a larger IoU, the worse goes before masks are computed."""

    duplicate_iou: float = 0.8
    """Of two masks of any classes that overlap with a larger IoU, the worse goes."""

    mask_threshold: float = 0.5
    """A pixel belongs to the mask if its probability is >= this."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1 or self.max_instances < 1:
            raise UserError(
                f"score threshold {self.score_threshold} must lie in 0..1, max instances {self.max_instances} above 0"
            )
