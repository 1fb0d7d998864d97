"""BEiT-3's published checkpoints (`beit3_base_patch16_224.pth` and its like), under our names.

Query, key and value become one matrix, and positions begin at 2 in theirs. The expert of instances, which no BEiT-3
has, begins as the one of patches. Heads and the mask token of their pre-training are left out.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mail import addresses
from mail.errors import UserError, on_one_line
from mail.model.multiway import INSTANCES, PATCHES, WORDS

FIRST_POSITION = 2  # as fairseq counts
_EXPERTS = {WORDS: "B", PATCHES: "A", INSTANCES: "A"}
_LAYER_NAMES = {
    "norm_attention": "self_attn_layer_norm.{}",
    "norm_mixed": "self_attn.inner_attn_ln.{}",
    "output": "self_attn.out_proj.{}",
    "norm_mlp": "final_layer_norm.{}",
    "mlp_in": "ffn.{}.fc1",
    "norm_inner": "ffn.{}.ffn_layernorm",
    "mlp_out": "ffn.{}.fc2",
}


def read(source: str, instances: bool) -> dict[str, Tensor]:
    """The tensors of a file, or of the only `.pth` in a folder, under our names.

    Args:
        instances: whether the network has an expert for them.

    Raises:
        UserError: there is none, or it is no BEiT-3's.
    """
    path = Path(addresses.absolute_or_name(source))
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        found = f"{len(files)} .pth files" if path.is_dir() else "no file"
        raise UserError(
            f"no BEiT-3 weights at {source!r}: there is {found}; give a published file such as "
            "beit3_base_patch16_224.pth, or a folder that holds just one"
        )
    try:
        loaded: Any = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception as error:  # the reader of a damaged file raises whatever it likes
        why = on_one_line((str(error).splitlines() or [type(error).__name__])[0])
        raise UserError(f"{files[0]} cannot be read as a checkpoint ({why}): fetch it again") from None
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or "beit3.text_embed.weight" not in state:
        raise UserError(f"{files[0]} is no BEiT-3 checkpoint: it has no beit3.text_embed.weight")
    return convert(state, instances)


def convert(state: dict[str, Tensor], instances: bool) -> dict[str, Tensor]:
    """A published state dict under our parameters' names; see `read`.

    Raises:
        UserError: a tensor is missing, or there is one that no BEiT-3 has.
    """
    theirs = {key.removeprefix("beit3."): value for key, value in state.items() if key.startswith("beit3.")}
    used = {"vision_embed.mask_token"}

    def take(name: str) -> Tensor:
        if not isinstance(theirs.get(name), Tensor):
            raise UserError(f"this is no whole BEiT-3 checkpoint: beit3.{name} is not in it")
        used.add(name)
        return theirs[name]

    renamed = {
        "text.word_embeddings.weight": take("text_embed.weight"),
        "text.position_embeddings.weight": take("encoder.embed_positions.B.weight")[FIRST_POSITION:],
        "patch.cls_token": take("vision_embed.cls_token"),
        "patch.position_embeddings": take("encoder.embed_positions.A.weight")[None, FIRST_POSITION:],
    }
    experts = {number: letter for number, letter in _EXPERTS.items() if instances or number != INSTANCES}
    layers = {int(key.split(".")[2]) for key in theirs if key.startswith("encoder.layers.")}
    for kind in ("weight", "bias"):
        renamed[f"patch.projection.{kind}"] = take(f"vision_embed.proj.{kind}")
        for number, letter in experts.items():
            renamed[f"encoder.norms.{number}.{kind}"] = take(f"encoder.layer_norm.{letter}.{kind}")
            for i in sorted(layers):
                their, our = f"encoder.layers.{i}.", f"encoder.blocks.{i}.experts.{number}."
                asked = [take(f"{their}self_attn.{part}_proj.{letter}.{kind}") for part in "qkv"]
                renamed[f"{our}qkv.{kind}"] = torch.cat(asked)
                for name, old in _LAYER_NAMES.items():
                    renamed[f"{our}{name}.{kind}"] = take(f"{their}{old.format(letter)}.{kind}")
    if strange := sorted(theirs.keys() - used):
        raise UserError(f"this is no BEiT-3 checkpoint: {len(strange)} tensors are unknown, first beit3.{strange[0]}")
    # experts tell modalities apart
    renamed["token_type.weight"] = torch.zeros(3, renamed["patch.cls_token"].shape[-1])
    return renamed
