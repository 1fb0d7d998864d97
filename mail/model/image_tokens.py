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

    patches: Tensor  # (I, 1 + P, d), ViLT's class token first
    patches_valid: Tensor  # (I, 1 + P)
    stem: Tensor  # (I, stem_dim, D, D)
    masks: Tensor | None  # (I, K, R, R) in [0, 1]
    instances: Tensor | None  # (I, K, d)
    coverage: Tensor | None  # (I, K, 1 + P)
    valid: Tensor | None  # (I, K)

    def of(self, index: Tensor) -> "ImageTokens":
        """The tokens of the image of each expression: (I, ...) -> (N, ...)."""
        gathered: dict[str, Any] = {name: None if t is None else t[index] for name, t in vars(self).items()}
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


def _with_slots(tensor: Tensor | None, slots: int, like: Tensor, images: int) -> Tensor:
    """(I, K, ...) -> (I, slots, ...), what is added being zero; of images without any instance a `like` of zeros."""
    if tensor is None:
        return like.new_zeros(images, slots, *like.shape[2:])
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, slots - tensor.shape[1]))
