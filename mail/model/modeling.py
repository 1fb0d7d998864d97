"""`MailForReferringSegmentation`: the network, from a batch of the processor to logits and losses.

What the paper's public text leaves open is decided in `configuration.py` and reasoned about in `docs/model.md`.
Shapes: I images, N expressions (`image_index` says on which image), K instance slots, T word pieces, S canvas side,
R = S / mask_stride, P patches, d hidden size.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from mail.model import losses
from mail.model.card import FoundByTransformers
from mail.model.configuration import MailConfig
from mail.model.decoder import Decoder, SelectionHead
from mail.model.embeddings import GeometryEmbedding, InstanceEmbeddings, PatchEmbeddings, PixelStem
from mail.model.encoder import Encoder
from mail.model.image_tokens import ImageTokens
from mail.model.towers import TOWERS


@dataclass
class MailOutput(ModelOutput):
    """What the network returns.

    Attributes:
        loss: weighted sum of `losses`, a mean over the batch's expressions; None without targets.
        losses: each term, unweighted, mean over expressions.
        mask_logits: (N, R, R) on the canvas.
        pixel_logits: (N, R, R), the pixel decoder's part of them, without the direct path.
        selection_logits: (N, 1 + K), the null slot first; None for a network without selection.
        no_target_logits: (N,).
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask_logits: Tensor | None = None
    pixel_logits: Tensor | None = None
    selection_logits: Tensor | None = None
    no_target_logits: Tensor | None = None


class MailForReferringSegmentation(FoundByTransformers, PreTrainedModel):  # type: ignore[misc]  # has more options
    """One transformer over words, image patches and instance masks; segments what an expression names."""

    config_class = MailConfig
    config: MailConfig
    base_model_prefix = "mail"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012 - the base class's type
    mean: Tensor
    std: Tensor

    def __init__(self, config: MailConfig):
        super().__init__(config)
        d = config.hidden_size
        tower = TOWERS[config.tower]
        self.text = tower.text(config)
        self.patch = PatchEmbeddings(config, tower.interpolation)
        self.token_type = nn.Embedding(3, d)  # words, patches, instances
        self.geometry = GeometryEmbedding(config)
        self.stem = PixelStem(config)
        self.instance = InstanceEmbeddings(config) if config.uses_instance_tokens else None
        self.mask_channels = None
        if config.mask_modality == "channels":
            cells = config.patch_size // config.mask_stride
            self.mask_channels = nn.Conv2d(config.max_instances, d, cells, cells)
        self.encoder = tower.encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(1, 3, 1, 1), persistent=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # transformers' own initialisers leave alone what a checkpoint has filled; non-persistent buffers are set here
        # because loading makes the network without memory
        std = self.config.initializer_range  # a layer may want another: `init_std`
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=getattr(module, "init_std", std))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=getattr(module, "init_std", std))
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, GeometryEmbedding):
            init.copy_(module.frequencies, module.octaves())
        elif isinstance(module, PatchEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
        elif isinstance(module, Encoder) and module.coverage_gain is not None:
            init.zeros_(module.coverage_gain)
        elif isinstance(module, SelectionHead):
            init.constant_(module.log_temperature, math.log(8))
        elif isinstance(module, Decoder) and module.direct_gain is not None:
            init.constant_(module.direct_gain, 4.0)
        elif isinstance(module, MailForReferringSegmentation):
            init.copy_(module.mean, torch.tensor(self.config.image_mean).view(1, 3, 1, 1))
            init.copy_(module.std, torch.tensor(self.config.image_std).view(1, 3, 1, 1))

    def encode_images(
        self,
        pixel_values: Tensor,
        pixel_size: Tensor,
        instance_masks: Tensor | None = None,
        instance_boxes: Tensor | None = None,
        instance_scores: Tensor | None = None,
        instance_labels: Tensor | None = None,
        instance_valid: Tensor | None = None,
    ) -> ImageTokens:
        """Embeds images and their instances; see `forward` for the arguments."""
        config = self.config
        dtype = self.patch.projection.weight.dtype
        pixels = ((pixel_values.to(dtype) / 255 - self.mean) / self.std).to(dtype)
        inside = _inside(pixel_size, pixel_values.shape[-2:], pixel_values.device)
        pixels = pixels * inside[:, None].to(dtype)  # padding is mid grey, as in ViLT's normalisation
        grid = (pixel_values.shape[-2] // config.patch_size, pixel_values.shape[-1] // config.patch_size)
        used = -(-pixel_size // config.patch_size)  # rows and columns of patches that hold image
        patches = self.patch.patches(pixels)
        if self.mask_channels is not None and instance_masks is not None:
            # a smaller batch may carry fewer slots than the convolution has channels
            masks = instance_masks.to(dtype) / 255
            masks = F.pad(masks, (0, 0, 0, 0, 0, config.max_instances - masks.shape[1]))
            patches = patches + self.mask_channels(masks).flatten(2).transpose(1, 2)
        patches = patches + self.patch.positions(grid, used).to(dtype)
        patches = patches + self.geometry(self.patch_boxes(grid, pixel_size))
        cls = (self.patch.cls_token + self.patch.position_embeddings[:, :1]).expand(len(patches), -1, -1)
        patches = torch.cat([cls, patches], 1) + self.token_type.weight[1]
        valid = _inside(used, grid, pixel_values.device).flatten(1)
        valid = torch.cat([valid.new_ones(len(valid), 1), valid], 1)
        tokens = ImageTokens(patches, valid, self.stem(pixels), None, None, None, None)
        if self.instance is None or instance_masks is None or instance_masks.shape[1] == 0:
            return tokens
        assert instance_boxes is not None
        assert instance_scores is not None
        assert instance_labels is not None
        masks = instance_masks.to(dtype) / 255
        height, width = pixel_values.shape[-2:]
        extent = torch.stack([pixel_size[:, 0] / height, pixel_size[:, 1] / width], 1)
        instances = self.instance(masks, instance_boxes, instance_scores, instance_labels, tokens.stem, pixels, extent)
        instances = instances + self.geometry(instance_boxes) + self.token_type.weight[2]
        coverage = F.adaptive_avg_pool2d(masks, grid).flatten(2)
        tokens.masks, tokens.instances, tokens.valid = masks, instances, instance_valid
        tokens.coverage = F.pad(coverage, (1, 0))  # the class token is covered by nothing
        return tokens

    def patch_boxes(self, grid: tuple[int, int], pixel_size: Tensor) -> Tensor:
        """(I, P, 4) boxes of the patches as fractions of their image; the same code as for instances."""
        side = self.config.patch_size
        rows = torch.arange(grid[0], device=pixel_size.device) * side
        columns = torch.arange(grid[1], device=pixel_size.device) * side
        y0, x0 = torch.meshgrid(rows, columns, indexing="ij")
        boxes = torch.stack([x0, y0, x0 + side, y0 + side], -1).flatten(0, 1).float()  # (P, 4)
        return boxes[None] / pixel_size.flip(1).repeat(1, 2)[:, None].float()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_size: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        instance_masks: Tensor | None = None,
        instance_boxes: Tensor | None = None,
        instance_scores: Tensor | None = None,
        instance_labels: Tensor | None = None,
        instance_valid: Tensor | None = None,
        target_masks: Tensor | None = None,
        instance_ious: Tensor | None = None,
        instance_inside: Tensor | None = None,
        no_target: Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> MailOutput | tuple:
        """Segments N expressions on I images.

        Args:
            pixel_values: uint8 (I, 3, S, S), the image top-left on the canvas.
            pixel_size: (I, 2) height and width of the image on the canvas.
            input_ids, attention_mask: (N, T).
            image_index: (N,) the image of each expression; None if there is one expression an image.
            instance_masks: uint8 (I, K, R, R) coverage 0..255; instance_boxes: (I, K, 4) fractions of the image;
                instance_scores, instance_labels, instance_valid: (I, K). None: no proposals at all.
            target_masks: uint8 (N, R, R) coverage 0..255; instance_ious: (N, K) IoU of each proposal with the target;
                instance_inside: (N, K) share of each proposal that lies inside it; no_target: bool (N,). In training.
        """
        images = self.encode_images(
            pixel_values,
            pixel_size,
            instance_masks,
            instance_boxes,
            instance_scores,
            instance_labels,
            instance_valid,
        )
        if image_index is None:
            image_index = torch.arange(len(input_ids), device=input_ids.device)
        output = self.segment(images.of(image_index), input_ids, attention_mask)
        if target_masks is not None:
            size = target_masks.shape[-2:]
            inside = _inside(-(-pixel_size // self.config.mask_stride), size, pixel_size.device)[image_index]
            fits = instance_ious if self.config.choice == "one" else instance_inside
            gathered = None if instance_valid is None else instance_valid[image_index]
            terms = self.loss_terms(output, target_masks, inside, fits, gathered, no_target)
            output.losses = {name: term.mean() for name, term in terms.items()}
            output.loss = torch.stack(
                [getattr(self.config, f"loss_{name}") * term for name, term in output.losses.items()]
            ).sum()
        return output if return_dict else output.to_tuple()

    def encode(self, images: ImageTokens, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The transformer's output (N, T + 1 + P + K, d): words, the image's class token, patches, instances."""
        words = self.text(input_ids) + self.token_type.weight[0]
        sequence, valid = [words, images.patches], [attention_mask.bool(), images.patches_valid]
        if images.instances is not None and images.valid is not None:
            sequence.append(images.instances)
            valid.append(images.valid)
        tokens, device = torch.cat(sequence, 1), input_ids.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            # the residual stream too: it is most of what a block reads and writes
            tokens = tokens.to(torch.get_autocast_dtype(device))
        return self.encoder(tokens, torch.cat(valid, 1), images.coverage, words.shape[1])

    def segment(self, images: ImageTokens, input_ids: Tensor, attention_mask: Tensor) -> MailOutput:
        """Encodes and decodes N expressions, `images` already gathered to one row an expression."""
        encoded = self.encode(images, input_ids, attention_mask)
        first, count = input_ids.shape[1] + 1, images.patches.shape[1] - 1
        # copied, so that the decoder's input does not depend on the number of words: it is compiled once for all
        patches = encoded[:, first : first + count].contiguous()
        instances = encoded[:, first + count :].contiguous() if images.instances is not None else None
        decoded = self.decoder(
            _mean_of_words(encoded, attention_mask), patches, images.stem, instances, images.masks, images.valid
        )
        return MailOutput(
            mask_logits=decoded.mask,
            pixel_logits=decoded.pixels,
            selection_logits=decoded.selection,
            no_target_logits=decoded.no_target,
        )

    def loss_terms(
        self,
        output: MailOutput,
        target_masks: Tensor,
        inside: Tensor,
        fits: Tensor | None,
        valid: Tensor | None,
        no_target: Tensor | None,
    ) -> dict[str, Tensor]:
        """Every loss term per expression (N,), unweighted.

        Args:
            inside: (N, R, R) True where there is image. fits: (N, K) of each proposal; valid: (N, K) where one is.
        """
        assert output.mask_logits is not None
        target, share = target_masks.float() / 255, self.config.pixel_share
        terms = {}
        for name, loss in (("mask_bce", losses.mask_bce), ("mask_dice", losses.mask_dice)):
            terms[name] = loss(output.mask_logits, target, inside.float())
            if share and output.pixel_logits is not None and output.pixel_logits is not output.mask_logits:
                of_pixels = loss(output.pixel_logits, target, inside.float())
                terms[name] = (1 - share) * terms[name] + share * of_pixels
        logits = output.selection_logits
        if self.config.selection and logits is not None and fits is not None and valid is not None:
            if self.config.choice == "many":
                terms["selection"] = losses.membership(logits, fits.float(), valid)
            else:
                terms["selection"] = losses.selection(logits, fits.float(), self.config.selection_min_iou)
        if no_target is not None and output.no_target_logits is not None:
            terms["no_target"] = losses.no_target(output.no_target_logits, no_target)
        return terms


def _mean_of_words(encoded: Tensor, attention_mask: Tensor) -> Tensor:
    """(N, L, d), (N, T) -> (N, d). A mean carries every word from the first step on; [CLS] would have to learn it."""
    weights = attention_mask.to(encoded.dtype)[..., None]
    words = encoded[:, : weights.shape[1]]
    return (words * weights).sum(1) / weights.sum(1).clamp_min(1)


def _inside(size: Tensor, canvas: tuple[int, int] | torch.Size, device: torch.device) -> Tensor:
    """(I, 2) heights and widths -> bool (I, H, W), True inside."""
    rows = torch.arange(canvas[0], device=device)[None, :, None] < size[:, 0, None, None]
    columns = torch.arange(canvas[1], device=device)[None, None, :] < size[:, 1, None, None]
    return rows & columns
