"""From arrays to a device: through pinned memory, from where a GPU fetches them while the host goes on."""

from collections.abc import Sequence
from threading import RLock

import numpy as np
import torch

ALLOCATING = RLock()  # while a CUDA graph is recorded in one thread, no other may allocate memory on or for the GPU


def copy_for(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy in the host's memory that the device is fed from: pinned, for a GPU. The array may be read-only."""
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    with ALLOCATING:
        tensor = torch.empty(array.shape, dtype=kind, pin_memory=device.type == "cuda")
    tensor.numpy()[...] = array
    return tensor


def upload(images: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """uint8 (3, H, W) on the device of each image, uint8 (H, W, 3), which is not referred to."""
    return [copy_for(image, device).to(device, non_blocking=True).permute(2, 0, 1) for image in images]
