"""The one transformer over words, patches and instances: what every tower shares, and ViLT's blocks.

A tower is a pre-trained encoder (`mail.model.towers`). ViLT (Kim, Son, Kim 2021, arXiv 2102.03334) has pre-norm ViT
blocks that treat all tokens alike; here with the three projections of the attention as one matrix product and PyTorch's
fused attention.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mail.model.configuration import MailConfig

CLOSE_TO_IDENTITY = 0.1
"""Spread of the layers that end a block, over the usual one: the heads see the embeddings at once and the encoder grows
into it. With the usual size, a network trained from nothing stays for hundreds of steps where words change nothing."""


class Encoder(nn.Module):
    """Blocks and the final norm, over a sequence of words, image tokens and instances.

    Attributes:
        blocks: of the tower.
        coverage_gain: (heads,) how much an instance and the patches under it attend to each other beforehand;
            zero at the start, so that the pre-trained encoder is unchanged.
        one_way: instances attend to everything, words and patches to each other only.
    """

    blocks: nn.ModuleList

    def __init__(self, config: MailConfig):
        super().__init__()
        biased = config.uses_instance_tokens and config.coverage_bias
        self.coverage_gain = nn.Parameter(torch.zeros(config.num_attention_heads)) if biased else None
        self.one_way = config.attention == "one_way"

    def parts(self, words: int, patches: int, slots: int) -> list[int]:
        """Lengths of the parts of a sequence that the blocks treat differently."""
        raise NotImplementedError

    def run(self, tokens: Tensor, parts: Sequence[int], bias: Tensor) -> Tensor:
        """All blocks and the final norm: (N, L, d), with an additive bias (N, 1 or heads, L, L) -> (N, L, d)."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, valid: Tensor, coverage: Tensor | None = None, first_patch: int = 0) -> Tensor:
        """Encodes a sequence whose last K tokens are instances (if `coverage` is given; K = 0 without).

        Args:
            tokens: (N, L, d).
            valid: (N, L) bool, False for padding, which nothing attends to.
            coverage: (N, K, P) share of each patch that an instance covers, or None.
            first_patch: position of the first image token in the sequence; before it are words.

        Returns:
            (N, L, d) after the final norm; zero at padded positions.
        """
        whole = tokens.shape
        bias = self.attention_bias(tokens, valid, coverage, first_patch)
        slots = 0 if coverage is None else coverage.shape[1]
        parts = self.parts(first_patch, whole[1] - first_patch - slots, slots)
        shorter = without_padding(valid, parts)
        if shorter is not None:
            order, parts = shorter
            tokens = tokens.take_along_dim(order[..., None], 1)
            bias = bias.take_along_dim(order[:, None, :, None], 2).take_along_dim(order[:, None, None], 3)
        tokens = self.run(tokens, parts, bias)
        if shorter is not None:
            tokens = tokens.new_zeros(whole).scatter(1, order[..., None].expand(-1, -1, whole[2]), tokens)
        return tokens * valid[..., None].to(tokens.dtype)

    def attention_bias(self, tokens: Tensor, valid: Tensor, coverage: Tensor | None, first_patch: int) -> Tensor:
        """What is added to the attention's logits, (N, heads or 1, L, L), made once for all blocks."""
        n, length = valid.shape
        may_look = valid[:, None, None, :].expand(n, 1, length, length)
        if coverage is not None and self.one_way:
            instance = torch.arange(length, device=valid.device) >= length - coverage.shape[1]
            may_look = may_look & (instance[:, None] | ~instance[None, :])
        nowhere = torch.finfo(tokens.dtype).min
        if coverage is None or self.coverage_gain is None:
            return tokens.new_zeros(n, 1, length, length).masked_fill(~may_look, nowhere)
        slots, patches = coverage.shape[1:]
        gain = self.coverage_gain[None, :, None, None].to(tokens.dtype)
        block = gain * coverage[:, None].to(tokens.dtype)  # (N, heads, K, P)
        # built by padding rather than by assignment: no in-place write, so it compiles and differentiates
        after = length - first_patch - patches
        to_patches = F.pad(block, (first_patch, after, length - slots, 0))
        to_instances = F.pad(block.transpose(-1, -2), (length - slots, 0, first_patch, after))
        return (to_patches + to_instances).masked_fill(~may_look, nowhere)


def without_padding(valid: Tensor, parts: Sequence[int]) -> tuple[Tensor, list[int]] | None:
    """(N, L) -> (N, shorter) positions of each sequence, each part as long as its longest, and these lengths.

    None where nothing can be left out. Words, images and instances are each padded for themselves, and a photo of 4:3
    leaves a fourth of its canvas empty. Only on CPUs: the lengths must be known here, and a GPU would be waited for.
    """
    if valid.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    order, longest, first = [], [], 0
    for part in valid.split(list(parts), 1):
        longest.append(int(part.sum(1).max()) if part.shape[1] else 0)
        order.append(part.int().argsort(dim=1, descending=True, stable=True)[:, : longest[-1]] + first)
        first += part.shape[1]
    return (torch.cat(order, 1), longest) if sum(longest) < valid.shape[1] else None


def attend(qkv: Tensor, heads: int, bias: Tensor) -> Tensor:
    """Queries, keys and values (N, L, 3 d) of all heads, with an additive bias -> what each token takes (N, L, d)."""
    n, length, width = qkv.shape
    query, key, value = qkv.view(n, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (N, heads, L, d / heads)
    return mixed.transpose(1, 2).reshape(n, length, width // 3)


class Attention(nn.Module):
    def __init__(self, config: MailConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """(N, L, d) with an additive bias (N, 1 or heads, L, L) -> (N, L, d)."""
        return self.output(attend(self.qkv(tokens), self.heads, bias))


class Block(nn.Module):
    """A pre-norm ViT block."""

    def __init__(self, config: MailConfig):
        super().__init__()
        d = config.hidden_size
        self.norm_attention = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.norm_mlp = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.mlp_in = nn.Linear(d, config.intermediate_size)
        self.mlp_out = nn.Linear(config.intermediate_size, d)
        for layer in (self.attention.output, self.mlp_out):
            layer.init_std = CLOSE_TO_IDENTITY * config.initializer_range  # type: ignore[assignment]  # no module

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_attention(tokens), bias)
        return tokens + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(tokens))))


class ViltEncoder(Encoder):
    """Blocks that do not tell words, patches and instances apart."""

    def __init__(self, config: MailConfig):
        super().__init__(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def parts(self, words: int, patches: int, slots: int) -> list[int]:
        return [words + patches + slots]

    def run(self, tokens: Tensor, parts: Sequence[int], bias: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, bias)
        return self.norm(tokens)
