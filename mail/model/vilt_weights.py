"""A ViLT checkpoint (`dandelin/vilt-b32-mlm`) under our names.

What ViLT has, ours has too, with query, key and value in one matrix. The token-type row of instances starts as a copy
of the image row, as ViLT's own NLVR2 model starts its second image.
"""

from typing import Any

import torch
from torch import Tensor

from mail import addresses
from mail.errors import UserError
from mail.model.folder import quiet_transformers


def read(source: str) -> dict[str, Tensor]:
    """The tensors of a ViLT, from a local folder or a hub name, under our names.

    Raises:
        UserError: nothing can be read there, or it is no ViLT.
    """
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
    return convert(vilt.state_dict())


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
