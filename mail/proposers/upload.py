"""Images from the host's memory to the device that a proposer's network runs on."""

from collections.abc import Sequence

import numpy as np
import torch


def upload(images: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """uint8 (3, H, W) on the device of each image, uint8 (H, W, 3), which may be read-only and is not referred to.

    A GPU fetches them from pinned memory while the host goes on.
    """
    tensors = []
    for image in images:
        staged = torch.empty(image.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        staged.numpy()[...] = image
        tensors.append(staged.to(device, non_blocking=True).permute(2, 0, 1))
    return tensors
