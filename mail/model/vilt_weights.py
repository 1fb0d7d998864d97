"""Start the network from a ViLT checkpoint (`dandelin/vilt-b32-mlm`), by name, with a report of what is new.

What ViLT has, ours has too, under other names and with query, key and value in one matrix. What ViLT lacks is the third
modality and everything after the encoder. The token-type row of instances starts as a copy of the image row, as ViLT's
own NLVR2 model starts its second image.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mail import addresses
from mail.errors import UserError
from mail.model.configuration import MailConfig
from mail.model.folder import quiet_transformers
from mail.model.modeling import MailForReferringSegmentation


def load_vilt(model: MailForReferringSegmentation, source: str) -> list[str]:
    """Fills the encoder from a local folder or a hub name.

    Returns:
        Our parameters that no ViLT has (mask modality, decoder, heads), left as initialised.

    Raises:
        UserError: nothing can be read there, or it does not fit; the message names the tensors.
    """
    return fill_from_vilt(model, _read(source))


def check_vilt(config: MailConfig, source: str) -> None:
    """Raises `load_vilt`'s UserError where it would, for a network that is not built yet. Fetches a hub's files."""
    with torch.device("meta"):
        model = MailForReferringSegmentation(config)
    fill_from_vilt(model, _read(source))


def _read(source: str) -> dict[str, Tensor]:
    """A `ViltModel`'s state dict."""
    from transformers import ViltModel

    source = addresses.absolute_or_name(source)
    try:
        with quiet_transformers():
            loaded: Any = ViltModel.from_pretrained(source, add_pooling_layer=False, output_loading_info=True)
    except Exception as error:  # the reader of a damaged file raises whatever it likes
        raise UserError(
            f"no ViLT weights at {source!r} ({(str(error).splitlines() or [type(error).__name__])[0]}): give a folder "
            "that holds config.json and model.safetensors of a ViLT, or a hub name that can be reached"
        ) from None
    vilt, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{source} is no ViLT checkpoint: {len(missing)} tensors are not there, first {', '.join(missing[:3])}"
        )
    return vilt.state_dict()


def fill_from_vilt(model: MailForReferringSegmentation, state: dict[str, Tensor]) -> list[str]:
    """Copies a `ViltModel`'s state dict into the network; see `load_vilt`."""
    ours = dict(model.named_parameters())
    converted = convert(state)
    wrong = []
    with torch.no_grad():
        for name, value in converted.items():
            if name not in ours:
                wrong.append(f"{name} (no such layer here)")
                continue
            fitted = _fit(name, value, ours[name].shape)
            if fitted.shape != ours[name].shape:
                wrong.append(f"{name} {tuple(value.shape)} for {tuple(ours[name].shape)}")
                continue
            ours[name].copy_(fitted)
    new = [name for name in ours if name not in converted]
    shared = ("text.", "patch.", "encoder.blocks.", "encoder.norm.")
    wrong += [f"{name} (not in the checkpoint)" for name in new if name.startswith(shared)]
    if wrong:
        raise UserError(f"the ViLT checkpoint does not fit, {len(wrong)} tensors: {'; '.join(wrong[:5])}")
    return new


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A `ViltModel` state dict under our parameters' names."""
    renamed: dict[str, Tensor] = {}
    layers = {int(key.split(".")[2]) for key in state if key.startswith("encoder.layer.")}
    for old, new in (("text_embeddings.", "text."), ("patch_embeddings.projection.", "patch.projection.")):
        old = f"embeddings.{old}"
        renamed |= {new + name.removeprefix(old): value for name, value in state.items() if name.startswith(old)}
    renamed["patch.cls_token"] = state["embeddings.cls_token"]
    renamed["patch.position_embeddings"] = state["embeddings.position_embeddings"]
    types = state["embeddings.token_type_embeddings.weight"]
    renamed["token_type.weight"] = torch.cat([types[:2], types[1:2]])
    for i in sorted(layers):
        theirs, mine = f"encoder.layer.{i}.", f"encoder.blocks.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            renamed[f"{mine}attention.qkv.{kind}"] = torch.cat(parts)
            for old, new in _LAYER_NAMES.items():
                renamed[f"{mine}{new}.{kind}"] = state[f"{theirs}{old}.{kind}"]
    for kind in ("weight", "bias"):
        renamed[f"encoder.norm.{kind}"] = state[f"layernorm.{kind}"]
    return renamed


_LAYER_NAMES = {
    "attention.output.dense": "attention.output",
    "layernorm_before": "norm_attention",
    "layernorm_after": "norm_mlp",
    "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out",
}


def _fit(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Resamples patch projection and positions to another patch size or grid; anything else stays as it is."""
    if value.shape == shape:
        return value
    if name == "patch.projection.weight" and value.shape[:2] == shape[:2]:
        return resample_patch_projection(value, shape[-1])
    if name == "patch.position_embeddings" and value.shape[-1] == shape[-1]:
        return _resample_positions(value, round((shape[1] - 1) ** 0.5))
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


def _resample_positions(positions: Tensor, side: int) -> Tensor:
    """Positions (1, 1 + g * g, d) of another grid, as the forward pass would interpolate them."""
    grid = round((positions.shape[1] - 1) ** 0.5)
    table = positions[:, 1:].transpose(1, 2).reshape(1, -1, grid, grid)
    table = F.interpolate(table, size=(side, side), mode="bilinear", align_corners=True)
    return torch.cat([positions[:, :1], table.flatten(2).transpose(1, 2)], 1)
