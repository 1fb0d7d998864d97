"""Begins the network with a published encoder: its tensors under our names, fitted to our sizes, and what is new.

What a tower's authors published fills words, patches, blocks and norms. What nobody published is the third modality and
everything after the encoder.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mail.errors import UserError, first_few
from mail.model import beit3_weights, vilt_weights
from mail.model.configuration import MailConfig
from mail.model.embeddings import Interpolation
from mail.model.modeling import MailForReferringSegmentation

SHARED = ("text.", "patch.", "encoder.blocks.", "encoder.norm")
"""Parameters that a tower is whole with."""
TABLES = ("text.word_embeddings.weight", "text.position_embeddings.weight")
"""Of which a network with a smaller vocabulary, or for shorter sentences, has the first rows."""
SHOWN = 5


def load_pretrained(model: MailForReferringSegmentation, source: str) -> list[str]:
    """Fills the encoder with the weights of its tower.

    Args:
        source: ViLT: a local folder or a hub name. BEiT-3: the published file, or a folder that holds one.

    Returns:
        Our parameters that the tower does not have (mask modality, decoder, heads), left as initialised.

    Raises:
        UserError: nothing can be read there, or it does not fit; the message names the tensors.
    """
    return fill(model, _read(model.config, source))


def check_pretrained(config: MailConfig, source: str) -> list[str]:
    """`load_pretrained` for a network that is not built yet: its result, and its UserError. Fetches a hub's files."""
    with torch.device("meta"):
        model = MailForReferringSegmentation(config)
    return fill(model, _read(config, source))


def _read(config: MailConfig, source: str) -> dict[str, Tensor]:
    if config.tower == "beit3":
        return beit3_weights.read(source, config.uses_instance_tokens)
    return vilt_weights.read(source)


def fill(model: MailForReferringSegmentation, given: Mapping[str, Tensor]) -> list[str]:
    """Copies tensors into the parameters of their names; see `load_pretrained`."""
    ours = dict(model.named_parameters())
    wrong = []
    with torch.no_grad():
        for name, value in given.items():
            if name not in ours:
                wrong.append(f"{name} (no such layer here)")
                continue
            fitted = _fit(name, value, ours[name].shape, model.patch.interpolation)
            if fitted.shape != ours[name].shape:
                wrong.append(f"{name} {tuple(value.shape)} for {tuple(ours[name].shape)}")
                continue
            ours[name].copy_(fitted)
    new = [name for name in ours if name not in given]
    wrong += [f"{name} (not in the checkpoint)" for name in new if name.startswith(SHARED)]
    if wrong:
        tower = model.config.tower
        raise UserError(f"the {tower} checkpoint does not fit, {len(wrong)} tensors: {first_few(wrong, SHOWN)}")
    return new


def _fit(name: str, value: Tensor, shape: torch.Size, interpolation: Interpolation) -> Tensor:
    """Resamples patch projection and positions to another patch size or grid; leaves words out that no vocabulary of
    ours has. Anything else stays as it is."""
    if value.shape == shape:
        return value
    if name == "patch.projection.weight" and value.shape[:2] == shape[:2]:
        return resample_patch_projection(value, shape[-1])
    if name == "patch.position_embeddings" and value.shape[-1] == shape[-1]:
        return _resample_positions(value, round((shape[1] - 1) ** 0.5), interpolation)
    if name in TABLES and value.shape[1:] == shape[1:] and len(value) > shape[0]:
        return value[: shape[0]]
    return value


def resample_patch_projection(weight: Tensor, side: int) -> Tensor:
    """Projection (d, 3, p, p) for patches of another side, by the pseudo-inverse of the resizing of patches.

    The new projection of a resized patch comes as close as possible to the old one of the patch (Beyer et al. 2023,
    FlexiViT, arXiv 2212.08013, section 3.4).
    """
    old = weight.shape[-1]
    basis = torch.eye(old * old).view(old * old, 1, old, old)
    resize = F.interpolate(basis, size=(side, side), mode="bilinear", antialias=side < old).view(old * old, -1)
    inverse = torch.linalg.pinv(resize)  # (side * side, old * old)
    flat = weight.flatten(2).float() @ inverse.T
    return flat.view(*weight.shape[:2], side, side).to(weight.dtype)


def _resample_positions(positions: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Positions (1, 1 + g * g, d) of another grid, as the forward pass would interpolate them."""
    grid = round((positions.shape[1] - 1) ** 0.5)
    weights = interpolation(side, torch.tensor([side]), grid)[0]  # (side, grid)
    table = positions[0, 1:].view(grid, grid, -1).float()
    found = torch.einsum("rs,ct,std->rcd", weights, weights, table).flatten(0, 1)
    return torch.cat([positions[:, :1], found[None].to(positions.dtype)], 1)
