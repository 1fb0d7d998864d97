"""BEiT-3's encoder (Wang et al. 2022, arXiv 2208.10442): attention that all tokens share, and experts for the rest.

Words and image tokens have weights of their own in every layer, and so have instances here: a third expert. The blocks
are Magneto's (arXiv 2210.06423): pre-norm, with a further norm of what the attention gives and inside the feed-forward
layers. Equal to the authors' `torchscale` on words and patches (`tests/mail/model/test_beit3.py`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mail.model.configuration import MailConfig
from mail.model.encoder import CLOSE_TO_IDENTITY, Encoder, attend

WORDS, PATCHES, INSTANCES = range(3)
"""The experts, in the order of the sequence."""


class WordEmbeddings(nn.Module):
    """Word pieces and their positions; which modality a token is of, its expert knows."""

    def __init__(self, config: MailConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.word_embeddings.init_std = 4 * config.initializer_range  # type: ignore[assignment]  # as ViLT's here
        self.position_embeddings = nn.Embedding(config.max_text_length, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(N, T) word pieces -> (N, T, d)."""
        return self.word_embeddings(input_ids) + self.position_embeddings.weight[: input_ids.shape[1]]


class Expert(nn.Module):
    """What one modality's tokens go through in a block, before and after the attention that all share."""

    def __init__(self, config: MailConfig):
        super().__init__()
        d, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.norm_attention = nn.LayerNorm(d, eps)
        self.qkv = nn.Linear(d, 3 * d)
        self.norm_mixed = nn.LayerNorm(d, eps)
        self.output = nn.Linear(d, d)
        self.norm_mlp = nn.LayerNorm(d, eps)
        self.mlp_in = nn.Linear(d, inner)
        self.norm_inner = nn.LayerNorm(inner, eps)
        self.mlp_out = nn.Linear(inner, d)
        for layer in (self.output, self.mlp_out):
            layer.init_std = CLOSE_TO_IDENTITY * config.initializer_range  # type: ignore[assignment]  # no module

    def ask(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values: (N, l, d) -> (N, l, 3 d)."""
        return self.qkv(self.norm_attention(tokens))

    def forward(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        """(N, l, d), and what the attention gives for them (N, l, d) -> (N, l, d)."""
        tokens = tokens + self.output(self.norm_mixed(mixed))
        return tokens + self.mlp_out(self.norm_inner(F.gelu(self.mlp_in(self.norm_mlp(tokens)))))


class MultiwayBlock(nn.Module):
    def __init__(self, config: MailConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.experts = nn.ModuleList([Expert(config) for _ in range(_count(config))])

    def forward(self, parts: list[Tensor], bias: Tensor) -> list[Tensor]:
        """The parts of a sequence, (N, l, d) each and each of another expert, with a bias over the whole of it."""
        asked = torch.cat([expert.ask(part) for expert, part in _pairs(self.experts, parts)], 1)
        mixed = attend(asked, self.heads, bias).split([part.shape[1] for part in parts], 1)
        return [expert(part, taken) for (expert, part), taken in zip(_pairs(self.experts, parts), mixed, strict=True)]


class MultiwayEncoder(Encoder):
    """Blocks and final norms, with an expert for each modality."""

    def __init__(self, config: MailConfig):
        super().__init__(config)
        self.blocks = nn.ModuleList([MultiwayBlock(config) for _ in range(config.num_hidden_layers)])
        norms = [nn.LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(_count(config))]
        self.norms = nn.ModuleList(norms)

    def parts(self, words: int, patches: int, slots: int) -> list[int]:
        return [words, patches, slots] if slots else [words, patches]

    def run(self, tokens: Tensor, parts: Sequence[int], bias: Tensor) -> Tensor:
        split = list(tokens.split(list(parts), 1))
        for block in self.blocks:
            split = block(split, bias)
        return torch.cat([norm(part) for norm, part in _pairs(self.norms, split)], 1)


def _count(config: MailConfig) -> int:
    return INSTANCES + 1 if config.uses_instance_tokens else INSTANCES


def _pairs(modules: nn.ModuleList, parts: Sequence[Tensor]) -> Iterable[tuple[Any, Tensor]]:
    """Each part with its expert; a sequence without instances leaves theirs out."""
    return zip(modules, parts, strict=False)
