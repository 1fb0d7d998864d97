"""Named networks: `tiny` for a CPU in minutes, those of a ViLT and of a BEiT-3 at the real size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mail.errors import UserError
from mail.model.configuration import MailConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network and the training recipe that it was measured with.

    Attributes:
        config: makes the network's configuration.
        pretrained: weights of the tower to start from (hub name), None to start from nothing.
        published: name of the file of weights to start from, which everyone fetches by hand.
        tokenizer: vocabulary to use (file, folder or hub name), None to make one from the training expressions.
        global_batch_size: expressions an optimizer step, over all workers.
        optimizer, learning_rate, weight_decay, warmup_fraction, gradient_clip: see `mail.training.settings`.
        frozen_fraction, tower_rate, layer_decay: likewise.
        steps: optimizer steps.
        expressions_per_image: expressions of one image that share a decode and stay together in a batch.
        proposal_dropout: share of training images whose proposals are withheld; for networks with joint attention,
            which would not learn to do without them otherwise.
    """

    config: Callable[[], MailConfig]
    pretrained: str | None = None
    published: str | None = None
    tokenizer: str | None = None
    global_batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    gradient_clip: float = 1.0
    frozen_fraction: float = 0.0
    tower_rate: float = 1.0
    layer_decay: float = 1.0
    steps: int = 1000
    expressions_per_image: int = 2
    proposal_dropout: float = 0.0


def tiny() -> MailConfig:
    """About a million parameters for 128-pixel scenes; trains on two CPU cores in minutes."""
    return MailConfig(
        vocab_size=2048,
        max_text_length=24,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        patch_size=16,
        position_grid=8,
        image_size=128,
        mask_stride=2,
        max_instances=16,
        geometry_init="normal",
        decoder_stride=4,
        decoder_dim=24,
        stem_dim=32,
        initializer_range=0.09,
    )


_VILT = Preset(
    config=MailConfig,
    pretrained="dandelin/vilt-b32-mlm",
    tokenizer="dandelin/vilt-b32-mlm",
    learning_rate=5e-5,
    steps=40_000,
    global_batch_size=64,
    expressions_per_image=3,
)


def beit3(**sizes: Any) -> MailConfig:
    """BEiT-3's base network on 384 pixels, 24 x 24 patches, or what `sizes` make of it."""
    side = sizes.setdefault("image_size", 384)
    found: dict[str, Any] = {"tower": "beit3", "vocab_size": 64010, "pad_token_id": 1, "layer_norm_eps": 1e-5}
    return MailConfig(**{**found, "patch_size": 16, "position_grid": side // 16, **sizes})


# as OneRef trains the same tower (Xiao et al. 2024, arXiv 2410.08021): a third of the time frozen, then at an eighth of
# the rate of what is new; layer by layer less, as BEiT-3 is fine-tuned. Not measured here: that needs its weights
_BEIT3 = Preset(
    config=beit3,
    published="beit3_base_patch16_224.pth",
    learning_rate=2.5e-4,
    frozen_fraction=1 / 3,
    tower_rate=0.12,
    layer_decay=0.9,
    steps=40_000,
    global_batch_size=64,
    expressions_per_image=3,
)
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        config=tiny, optimizer="muon", learning_rate=1e-3, warmup_fraction=0.05, steps=900, expressions_per_image=3
    ),
    # ViLT-B/32 at 480 pixels: 15 x 15 patches
    "vilt-b32": _VILT,
    # patches of 16 pixels, 30 x 30 of them: projection and positions resampled from B/32
    "vilt-b16": replace(_VILT, config=partial(MailConfig, patch_size=16)),
    "beit3-base": _BEIT3,
    # 30 x 30 patches
    "beit3-base-480": replace(_BEIT3, config=partial(beit3, image_size=480)),
    "beit3-large": replace(_BEIT3, config=partial(beit3, **_LARGE), published="beit3_large_patch16_224.pth"),
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UserError: there is none; the message lists them.
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def full_expression(config: MailConfig) -> dict[str, torch.Tensor]:
    """A batch of zeros: one expression on its own image, with all words and instance slots filled."""
    side, cells, slots = config.image_size, config.mask_size, config.max_instances
    words = config.max_text_length
    batch = {
        "pixel_values": torch.zeros(1, 3, side, side, dtype=torch.uint8),
        "pixel_size": torch.full((1, 2), side),
        "input_ids": torch.zeros(1, words, dtype=torch.long),
        "attention_mask": torch.ones(1, words, dtype=torch.long),
    }
    if config.uses_instances:
        batch |= {
            "instance_masks": torch.zeros(1, slots, cells, cells, dtype=torch.uint8),
            "instance_boxes": torch.zeros(1, slots, 4),
            "instance_scores": torch.zeros(1, slots),
            "instance_labels": torch.zeros(1, slots, dtype=torch.long),
            "instance_valid": torch.ones(1, slots, dtype=torch.bool),
        }
    return batch


def describe(config: MailConfig) -> dict[str, Any]:
    """Parameters, forward FLOPs and weights in memory of a network, without building its tensors.

    `forward_flops_per_expression` counts two per multiply-add of the matrix products of one expression on its own
    image, by PyTorch's own counter, with all instance slots and words filled.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from mail.model.modeling import MailForReferringSegmentation

    with torch.device("meta"):
        model = MailForReferringSegmentation(config)
        batch = full_expression(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**batch)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = config.max_text_length + config.grid**2 + 1 + (config.max_instances if config.uses_instance_tokens else 0)
    return {
        "parameters": parameters,
        "tokens": tokens,
        "forward_flops_per_expression": counter.get_total_flops(),
        "weights_bytes_fp32": 4 * parameters,
        "training_state_bytes": 16 * parameters,  # fp32 weights, gradients and two AdamW moments
    }
