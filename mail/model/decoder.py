"""From encoded tokens to a mask: a pixel decoder that works alone, made sharper by the proposals that fit.

Shapes: N expressions, K instance slots, D = S / decoder_stride, R = S / mask_stride, d hidden size, c decoder_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mail.model.configuration import MailConfig
from mail.model.embeddings import ImageNorm


class Decoded(NamedTuple):
    """Logits: `mask` (N, R, R); `pixels` (N, R, R), what the pixel decoder says before the direct path adds to it;
    `selection` (N, 1 + K), the null slot first, or None; `no_target` (N,)."""

    mask: Tensor
    pixels: Tensor
    selection: Tensor | None
    no_target: Tensor


class PixelDecoder(nn.Module):
    """Patch tokens and shallow pixel features to mask logits."""

    def __init__(self, config: MailConfig):
        super().__init__()
        d, c = config.hidden_size, config.decoder_dim
        self.spread = nn.Linear(d, c)
        self.paint = nn.Conv2d(c, c, 3, padding=1)
        self.skip = nn.Conv2d(config.stem_dim, c, 1)
        self.fuse = nn.Sequential(ImageNorm(c), nn.GELU(), nn.Conv2d(c, c, 3, padding=1))
        self.out_norm = ImageNorm(c)
        self.query = nn.Linear(d, c + 1)
        self.paste = nn.Linear(d, c) if config.uses_instance_tokens and config.paste else None

    def forward(
        self, patches: Tensor, sentence: Tensor, stem: Tensor, instances: Tensor | None, coverage: Tensor | None
    ) -> Tensor:
        """Mask logits (N, D, D).

        Args:
            patches: (N, P, d); sentence: (N, d); stem: (N, stem_dim, D, D).
            instances: (N, K, d) and coverage: (N, K, D, D) in [0, 1], or None.
        """
        n, count, _ = patches.shape
        grid = round(count**0.5)
        # all in channels-last memory: what a linear layer gives is there already
        coarse = self.paint(self.spread(patches).view(n, grid, grid, -1).permute(0, 3, 1, 2))
        features = enlarge(coarse, stem.shape[-1]) + self.skip(stem)
        if self.paste is not None and instances is not None and coverage is not None:
            pasted = torch.einsum("nkc,nkhw->nhwc", self.paste(instances), coverage.to(features.dtype))
            features = features + pasted.permute(0, 3, 1, 2)
        features = features + self.fuse(features)
        features = F.gelu(self.out_norm(features))
        query = self.query(sentence)
        logits = torch.einsum("nc,nchw->nhw", query[:, :-1], features) * query.shape[1] ** -0.5
        return logits + query[:, -1, None, None]


def enlarge(cells: Tensor, side: int) -> Tensor:
    """(N, C, G, G) -> (N, C, side, side), bilinear, edges aligned; in channels-last memory.

    Two matrix products: their backward pass is two more, where that of an interpolation adds up with atomics.
    """
    n, channels, grid, _ = cells.shape
    places = torch.arange(side, device=cells.device, dtype=torch.float32)
    places = ((places + 0.5) * grid / side - 0.5).clamp(0, grid - 1)
    weights = (1 - (places[:, None] - torch.arange(grid, device=cells.device)).abs()).clamp_min(0).to(cells.dtype)
    wide = weights @ cells.permute(0, 2, 3, 1).reshape(n * grid, grid, channels)  # (N G, side, C)
    high = weights @ wide.view(n, grid, side * channels)  # (N, side, side C)
    return high.view(n, side, side, channels).permute(0, 3, 1, 2)


class SelectionHead(nn.Module):
    """Which proposals the expression means: one logit per instance, and one for "none of them".

    Where one proposal is chosen, that is one more choice; where each stands for itself, it is their threshold.

    Attributes:
        log_temperature: log of the learned factor of the match, 8 at the start: with 1 the first steps hardly move it.
    """

    def __init__(self, config: MailConfig):
        super().__init__()
        d = config.hidden_size
        self.key = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.query = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.null = nn.Linear(d, 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, instances: Tensor, sentence: Tensor, valid: Tensor) -> Tensor:
        """(N, K, d), (N, d), valid (N, K) -> (N, 1 + K); empty slots get the lowest number of the type."""
        match = torch.einsum("nkd,nd->nk", self.key(instances), self.query(sentence))
        scores = match * (self.log_temperature.exp() * instances.shape[-1] ** -0.5)
        scores = scores.masked_fill(~valid, torch.finfo(scores.dtype).min)
        return torch.cat([self.null(sentence), scores], 1)


def selection_shares(logits: Tensor, choice: str) -> Tensor:
    """Selection logits (N, 1 + K) -> probabilities of the proposals (N, K): of one choice, or of each for itself."""
    return logits.softmax(-1)[:, 1:] if choice == "one" else (logits[:, 1:] - logits[:, :1]).sigmoid()


LIKELY, LIKELIEST = 0.5, 0.1
"""Probability from which a proposal belongs, and from which the likeliest one does where none is likely
(`docs/ablation.md`)."""


def belonging(shares: Tensor) -> Tensor:
    """Of proposals that are each for itself, those that are chosen: probabilities (N, K) -> bool (N, K)."""
    likely, best = shares > LIKELY, shares.argmax(-1, keepdim=True)
    alone = torch.zeros_like(likely).scatter(-1, best, shares.amax(-1, keepdim=True) > LIKELIEST)
    return torch.where(likely.any(-1, keepdim=True), likely, alone)


class Decoder(nn.Module):
    """All outputs of the network.

    Attributes:
        direct_gain: how many logits a fully selected mask adds to its pixels, and takes from the others.
    """

    def __init__(self, config: MailConfig):
        super().__init__()
        d = config.hidden_size
        tokens = config.uses_instance_tokens
        self.config = config
        self.pixels = PixelDecoder(config)
        self.selection = SelectionHead(config) if tokens and (config.selection or config.direct) else None
        self.direct_gain = nn.Parameter(torch.tensor(4.0)) if tokens and config.direct else None
        self.no_target = nn.Linear(d, 1)

    def forward(
        self,
        sentence: Tensor,
        patches: Tensor,
        stem: Tensor,
        instances: Tensor | None,
        masks: Tensor | None,
        valid: Tensor | None,
    ) -> Decoded:
        """Decodes N expressions.

        Args:
            sentence: (N, d); patches: (N, P, d); stem: (N, stem_dim, D, D).
            instances: (N, K, d), masks: (N, K, R, R) coverage in [0, 1], valid: (N, K); all None without instances.
        """
        size = self.config.mask_size
        coarse = None
        if masks is not None and self.pixels.paste is not None:
            coarse = F.adaptive_avg_pool2d(masks, stem.shape[-1])
        pixels = self.pixels(patches, sentence, stem, instances, coarse)[:, None].float()
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
        pixels = pixels[:, 0]
        mask, selection = pixels, None
        if self.selection is not None and instances is not None and masks is not None and valid is not None:
            selection = self.selection(instances, sentence, valid).float()
            if self.direct_gain is not None:
                mask = pixels + self.direct_path(selection, masks)
        return Decoded(mask, pixels, selection, self.no_target(sentence).float().squeeze(-1))

    def direct_path(self, selection: Tensor, masks: Tensor) -> Tensor:
        """Logits (N, R, R) of what is selected; silent when nothing is.

        In training the masks that the selection expects, which have a gradient; afterwards what is chosen, and of one
        choice the likeliest alone: between two candidates half of each would be right for neither.
        """
        assert self.direct_gain is not None
        one, shares = self.config.choice == "one", selection_shares(selection, self.config.choice)
        if not self.training:
            likeliest = F.one_hot(selection.argmax(-1), selection.shape[-1])[:, 1:]
            shares = (likeliest if one else belonging(shares)).to(shares.dtype)
        inside = torch.einsum("nk,nkhw->nhw", shares, masks.float())
        some = shares.sum(-1) if one else 1 - (1 - shares).prod(-1)
        if not one:  # where chosen masks overlap
            inside = inside.clamp(max=1)
        return self.direct_gain * (2 * inside - some[:, None, None])
