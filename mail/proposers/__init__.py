"""Proposers: what finds the instance masks of an image before the network reads them.

A proposer is a folder:

    PROPOSER/proposer.json        architecture, preprocessing, thresholds, categories, how it was trained
    PROPOSER/model.safetensors    weights
    PROPOSER/images.json          what it saw in training: ids ("coco/520199"), collections (`mail.data.origins`)

Everything that determines its output makes up its `proposer_id`, the key under which the mask table keeps its masks.
"""

from typing import Any, Protocol

import numpy as np

from mail.proposals import Proposals
from mail.proposers.config import Mask2FormerNetwork
from mail.proposers.folder import ProposerFolder
from mail.proposers.paste import Detections


class Proposer(Protocol):
    """Finds instance masks, class-agnostic in their order and duplicates, in images of any size."""

    proposer_id: str
    info: dict[str, Any]

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        """The network's share of `propose`: what it found in RGB images, each uint8 (H, W, 3), of any sizes."""
        ...

    def select(self, found: Detections, size: tuple[int, int]) -> Proposals:
        """The rest of `propose`, for CPU cores: masks in an image of `size` (H, W), duplicates removed, the best K."""
        ...

    def propose(self, images: list[np.ndarray]) -> list[Proposals]:
        """Proposals of RGB images, each uint8 (H, W, 3), in the images' own resolution, best score first."""
        ...


def load_proposer(
    path: str, device: str = "cpu", *, score_threshold: float | None = None, max_instances: int | None = None
) -> Proposer:
    """The proposer of a folder (local or s3://), ready to run on a device.

    Args:
        score_threshold, max_instances: other values than the folder's; they make it another proposer, with its own id.

    Raises:
        UserError: the folder is not a proposer's, or was written by a program that this one does not know.
    """
    folder = ProposerFolder.read(path).with_selection(score_threshold, max_instances)
    if isinstance(folder.network, Mask2FormerNetwork):
        from mail.proposers.mask2former import Mask2FormerProposer

        return Mask2FormerProposer.load(folder, device)
    from mail.proposers.maskrcnn import MaskRCNNProposer

    return MaskRCNNProposer.load(folder, device)
