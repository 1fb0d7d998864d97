"""torchvision's published Mask R-CNN weights (COCO_V1) as they are: its 90 category ids, nothing trained anew.

They were trained on COCO train2017, which holds evaluation images of every RefCOCO variant: a proposer of them leaks.
"""

from typing import Any

import safetensors.torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

from mail.errors import UserError
from mail.proposers.config import NetworkConfig
from mail.proposers.maskrcnn import build_network, current_names, read_state_dict

WEIGHTS: dict[str, Any] = {
    "r50-fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "r50-fpn-v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}


def coco_mask_rcnn(
    architecture: str, path: str | None = None, min_size: int = 800, max_size: int = 1333
) -> tuple[NetworkConfig, bytes]:
    """Network and weights (safetensors) of a Mask R-CNN with torchvision's 91 COCO outputs.

    Args:
        path: a state dict (.pth or .safetensors) of that shape; None takes torchvision's, from its cache or the web.

    Raises:
        UserError: it cannot be had, cannot be read without running code from it, or has other layers.
    """
    published = WEIGHTS[architecture]
    names = published.meta["categories"][1:]  # less the background
    network = NetworkConfig(
        architecture=architecture,
        categories=tuple(enumerate(names, start=1)),  # an output's number is COCO's id; ids that COCO skips are N/A
        min_size=min_size,
        max_size=max_size,
        frozen_norm=architecture == "r50-fpn",
    )
    if path is None:
        try:
            state = current_names(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{published.url} could not be fetched ({error}): download it where there is a network, and give the "
                "file as --weights"
            ) from None
    else:
        state = read_state_dict(path)
    # building takes seconds; it says at once, and by name, what does not fit
    own = {k: v.shape for k, v in build_network(network).state_dict().items()}
    given = {k: v.shape for k, v in state.items() if k in own}
    wrong = sorted(k for k in own if given.get(k) != own[k] and not k.endswith("num_batches_tracked"))
    if wrong:
        raise UserError(
            f"{path or published.url} is no {architecture} of torchvision with {len(names) + 1} outputs: "
            f"{wrong[0]} is {tuple(given.get(wrong[0], ()))}, not {tuple(own[wrong[0]])}"
        )
    return network, safetensors.torch.save({k: state[k].contiguous() for k in own if k in state})
