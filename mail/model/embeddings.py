"""From words, patches and instance masks to tokens of one width.

Shapes: I images, N expressions, K instance slots, P = G x G patches of the canvas, T word pieces, R mask cells a side,
d the hidden size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mail.model.configuration import MailConfig


class TextEmbeddings(nn.Module):
    """BERT's embeddings of word, position and segment, as ViLT uses them; parameter names are ViLT's."""

    def __init__(self, config: MailConfig):
        super().__init__()
        d = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, d, padding_idx=config.pad_token_id)
        # words must stand out from their positions before anything is learned about them
        self.word_embeddings.init_std = 4 * config.initializer_range  # type: ignore[assignment]  # a number, no module
        self.position_embeddings = nn.Embedding(config.max_text_length, d)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, d)
        self.LayerNorm = nn.LayerNorm(d, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(N, T) word pieces -> (N, T, d)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + self.position_embeddings(positions))


class GeometryEmbedding(nn.Module):
    """Coordinates, sizes and Fourier features of boxes, one projection shared by patches and instances.

    Place words compare where a patch is with where an instance is; a shared code makes that comparison a dot product.
    """

    frequencies: Tensor

    def __init__(self, config: MailConfig):
        super().__init__()
        self.count = config.geometry_frequencies
        self.register_buffer("frequencies", self.octaves(), persistent=False)
        # 6 numbers a box (x0, y0, x1, y1, centre), each with sine, cosine and itself, and width, height, sqrt area
        features = 6 * (2 * config.geometry_frequencies + 1) + 3
        self.projection = nn.Linear(features, config.hidden_size, bias=False)
        spread = 0.0 if config.geometry_init == "zero" else features**-0.5
        self.projection.init_std = spread  # type: ignore[assignment]  # a number, no module

    def octaves(self) -> Tensor:
        return math.pi * 2.0 ** torch.arange(self.count)

    def forward(self, boxes: Tensor) -> Tensor:
        """(..., 4) x0, y0, x1, y1 as fractions of the image -> (..., d)."""
        boxes = boxes.float()
        x0, y0, x1, y1 = boxes.unbind(-1)
        width, height = (x1 - x0).clamp_min(0), (y1 - y0).clamp_min(0)
        points = torch.stack([x0, y0, x1, y1, (x0 + x1) / 2, (y0 + y1) / 2], -1)
        angles = points[..., None] * self.frequencies  # (..., 6, F)
        parts = [angles.sin().flatten(-2), angles.cos().flatten(-2), points * 2 - 1]
        size = torch.stack([width, height, (width * height).clamp_min(1e-12).sqrt()], -1)
        return self.projection(torch.cat([*parts, size], -1).to(self.projection.weight.dtype))


Interpolation = Callable[[int, Tensor, int], Tensor]
"""(count, used, side) -> (I, count, side): the weights of a row of `side` positions in each of `count` cells, of which
the first `used` (I,) hold image; zero where there is none."""


class PatchEmbeddings(nn.Module):
    """Patch projection, class token and interpolated positions; parameter names are ViLT's.

    Args:
        interpolation: of the positions, as the tower's own code has it.
    """

    def __init__(self, config: MailConfig, interpolation: Interpolation):
        super().__init__()
        d = config.hidden_size
        self.config, self.interpolation = config, interpolation
        self.projection = nn.Conv2d(3, d, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.position_grid**2 + 1, d))

    def patches(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (I, 3, H, W) -> (I, P, d): patches do not overlap, so one matrix product does it."""
        images, channels, height, width = pixels.shape
        side = self.config.patch_size
        cells = pixels.view(images, channels, height // side, side, width // side, side)
        flat = cells.permute(0, 2, 4, 1, 3, 5).reshape(images, -1, channels * side * side)
        return F.linear(flat, self.projection.weight.flatten(1), self.projection.bias)

    def positions(self, grid: tuple[int, int], valid: Tensor) -> Tensor:
        """Positions of the patches, interpolated to every image's own grid.

        Args:
            grid: patches of the canvas (rows, columns).
            valid: (I, 2) rows and columns of patches that hold part of the image.

        Returns:
            (I, P, d), zero where there is no image. One product for all images of a batch instead of a call an image.
        """
        side = self.config.position_grid
        table = self.position_embeddings[0, 1:].reshape(side, side, -1)
        by_row, by_column = (
            self.interpolation(count, used, side).to(table.dtype) for count, used in zip(grid, valid.T, strict=True)
        )
        spread = torch.einsum("irs,ict,std->ircd", by_row, by_column, table)
        return spread.flatten(1, 2)


def corners_aligned(count: int, used: Tensor, side: int) -> Tensor:
    """ViLT's interpolation of positions: bilinear, the first and the last one at the image's edges."""
    index = torch.arange(count, device=used.device, dtype=torch.float32)
    scale = (side - 1) / (used - 1).clamp_min(1).float()  # one cell alone takes the first corner
    at = (index[None] * scale[:, None]).clamp(max=side - 1)
    corners = torch.arange(side, device=used.device, dtype=torch.float32)
    hat = (1 - (at[..., None] - corners).abs()).clamp_min(0)
    return hat * (index[None] < used[:, None])[..., None]


def cubic(count: int, used: Tensor, side: int) -> Tensor:
    """BEiT-3's: bicubic, as PyTorch's (Keys 1981 with a = -.75, edges repeated); of as many cells the positions."""
    index = torch.arange(count, device=used.device, dtype=torch.float32)
    at = (index[None] + 0.5) * (side / used[:, None].float()) - 0.5  # (I, count)
    first = at.floor() - 1
    weights = at.new_zeros(*at.shape, side)
    for tap in range(4):
        place = first + tap
        far, a = (at - place).abs(), -0.75
        near = ((a + 2) * far - (a + 3)) * far * far + 1
        beyond = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
        corner = place.clamp(0, side - 1)[..., None] == torch.arange(side, device=used.device)
        weights = weights + torch.where(far <= 1, near, beyond)[..., None] * corner
    return weights * (index[None] < used[:, None])[..., None]


class ImageNorm(nn.GroupNorm):
    """Group norm with one group: over all channels and cells of an image, then a gain and an offset a channel.

    Computed on channels-last memory, where the convolutions beside it are fastest and nothing has to be copied. Mean
    and variance come from the sums of each channel of each image, which leaves a factor and an offset for each of
    them: forward and backward read the features twice, and their sums are of a length that GPUs add up fast.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, in channels-last memory and the precision of the gains; computed in float32."""
        values = features.permute(0, 2, 3, 1).float()
        # a row first, then the rows: on a GPU one long sum of each channel would take too few threads
        mean = values.mean(2).mean(1).mean(1, keepdim=True)  # (N, 1)
        variance = (values.square().mean(2).mean(1).mean(1, keepdim=True) - mean.square()).clamp_min(0)
        factor = self.weight * (variance + self.eps).rsqrt()  # (N, C)
        offset = self.bias - mean * factor
        factor, offset = (each[:, None, None].expand(-1, values.shape[1], -1, -1) for each in (factor, offset))
        normal = values * factor + offset
        return normal.permute(0, 3, 1, 2).to(self.weight.dtype)


class PixelStem(nn.Module):
    """Shallow convolutions on the pixels: sharp edges for the decoder, exact colours for the instances."""

    def __init__(self, config: MailConfig):
        super().__init__()
        steps = int(math.log2(config.decoder_stride))
        if 2**steps != config.decoder_stride:
            raise ValueError(f"decoder_stride {config.decoder_stride} is no power of two")
        layers: list[nn.Module] = []
        channels = 3
        for step in range(max(steps, 1)):
            out = config.stem_dim if step == max(steps, 1) - 1 else config.stem_dim // 2
            layers += [nn.Conv2d(channels, out, 3, 2 if step < steps else 1, 1), ImageNorm(out), nn.GELU()]
            channels = out
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """(I, 3, S, S) -> (I, stem_dim, S / decoder_stride, S / decoder_stride), in channels-last memory."""
        return self.layers(pixels.contiguous(memory_format=torch.channels_last))


class InstanceEmbeddings(nn.Module):
    """One token per instance mask: its shape in its own box, the pixels under it, its box, score and label."""

    def __init__(self, config: MailConfig):
        super().__init__()
        d = config.hidden_size
        self.config = config
        self.shape = nn.Sequential(nn.Linear(config.shape_size**2, d), nn.GELU(), nn.Linear(d, d))
        self.appearance = nn.Sequential(nn.Linear(config.stem_dim + 3, d), nn.GELU(), nn.Linear(d, d))
        self.score = nn.Linear(1, d)
        self.label = nn.Embedding(config.num_labels_of_instances, d) if config.num_labels_of_instances else None
        for layer in (*self.shape, *self.appearance):
            if isinstance(layer, nn.Linear):
                layer.init_std = layer.in_features**-0.5
        # each part is normalised by itself: a shape has hundreds of inputs and would drown the few colours
        self.shape_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.appearance_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)

    def forward(
        self, masks: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, stem: Tensor, pixels: Tensor, extent: Tensor
    ) -> Tensor:
        """Embeds instances without their geometry, which the caller adds.

        Args:
            masks: (I, K, R, R) coverage in [0, 1].
            boxes: (I, K, 4) fractions of the image.
            scores: (I, K) in [0, 1]; labels: (I, K).
            stem: (I, stem_dim, D, D); pixels: (I, 3, S, S) normalised.
            extent: (I, 2) the image's share of the canvas (height, width) in [0, 1].

        Returns:
            (I, K, d).
        """
        size = stem.shape[-1]
        coverage = F.adaptive_avg_pool2d(masks, size).flatten(2).to(stem.dtype)  # (I, K, D * D)
        colours = F.adaptive_avg_pool2d(pixels, size).to(stem.dtype)
        features = torch.cat([stem, colours], 1).flatten(2)  # (I, C, D * D)
        pooled = coverage @ features.transpose(1, 2) / coverage.sum(-1, keepdim=True).clamp_min(1e-3)
        crops = self.crop(masks, boxes, extent).flatten(2)
        tokens = self.shape_norm(self.shape(crops.to(pooled.dtype) * 2 - 1))
        tokens = tokens + self.appearance_norm(self.appearance(pooled))
        tokens = tokens + self.score(scores[..., None].to(tokens.dtype))
        if self.label is not None:
            tokens = tokens + self.label(labels.clamp(0, self.config.num_labels_of_instances - 1))
        return tokens

    def crop(self, masks: Tensor, boxes: Tensor, extent: Tensor) -> Tensor:
        """Masks inside their own boxes: (I, K, R, R) -> (I, K, shape_size, shape_size)."""
        images, slots = masks.shape[:2]
        cells = (torch.arange(self.config.shape_size, device=masks.device) + 0.5) / self.config.shape_size
        x0, y0, x1, y1 = boxes.float().flatten(0, 1).unbind(-1)  # (I * K)
        scale = extent.float()[:, None].expand(-1, slots, -1).flatten(0, 1)
        x = (x0[:, None] + (x1 - x0)[:, None] * cells) * scale[:, 1:] * 2 - 1  # (I * K, shape_size)
        y = (y0[:, None] + (y1 - y0)[:, None] * cells) * scale[:, :1] * 2 - 1
        side = self.config.shape_size
        grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
        crops = F.grid_sample(masks.flatten(0, 1)[:, None].float(), grid, align_corners=False)
        return crops.view(images, slots, side, side)
