"""What the network knows of images before it reads a word: computed once a photo, whatever is asked about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

INSTANCES = ("masks", "instances", "coverage", "valid")


@dataclass
class ImageTokens:
    """Everything of I images that does not depend on the words, computed once for all of their expressions."""

    patches: Tensor  # (I, 1 + P, d), the class token first
    patches_valid: Tensor  # (I, 1 + P)
    stem: Tensor  # (I, stem_dim, D, D)
    masks: Tensor | None  # (I, K, R, R) in [0, 1]
    instances: Tensor | None  # (I, K, d)
    coverage: Tensor | None  # (I, K, 1 + P)
    valid: Tensor | None  # (I, K)

    def of(self, index: Tensor) -> "ImageTokens":
        """The tokens of the image of each expression: (I, ...) -> (N, ...)."""
        gathered: dict[str, Any] = {name: None if t is None else _rows(t, index) for name, t in vars(self).items()}
        return ImageTokens(**gathered)

    @classmethod
    def together(cls, several: Sequence["ImageTokens"]) -> "ImageTokens":
        """Those of many images of one network, each with as many instance slots as the one that has the most."""
        if len(several) == 1:
            return several[0]
        joined: dict[str, Any] = {}
        for name in vars(several[0]):
            given = [getattr(tokens, name) for tokens in several]
            if name in INSTANCES:
                filled = [t for t in given if t is not None]
                slots = max((t.shape[1] for t in filled), default=0)
                given = (
                    [_with_slots(t, slots, filled[0], len(s.patches)) for t, s in zip(given, several, strict=True)]
                    if slots
                    else []
                )
            joined[name] = torch.cat(given) if given else None
        return cls(**joined)

    @property
    def nbytes(self) -> int:
        """Memory that they hold."""
        return sum(t.nbytes for t in vars(self).values() if t is not None)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]`; with a gradient as a matrix product of ones and zeros, in the precision of autocast.

    The backward pass of indexing adds the rows up by sorting and atomics; that of a product is a product.
    """
    if not tensor.requires_grad:
        return tensor[index]
    chosen = F.one_hot(index, len(tensor)).to(tensor.dtype)
    # channels-last memory stays so: its rows are contiguous in another order
    last = tensor.ndim == 4
    flat = (tensor.permute(0, 2, 3, 1) if last else tensor).flatten(1)
    shape = (len(index), *((tensor.shape[2], tensor.shape[3], tensor.shape[1]) if last else tensor.shape[1:]))
    found = (chosen @ flat).view(shape)
    return found.permute(0, 3, 1, 2) if last else found


def _with_slots(tensor: Tensor | None, slots: int, like: Tensor, images: int) -> Tensor:
    """(I, K, ...) -> (I, slots, ...), what is added being zero; of images without any instance a `like` of zeros."""
    if tensor is None:
        return like.new_zeros(images, slots, *like.shape[2:])
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, slots - tensor.shape[1]))
