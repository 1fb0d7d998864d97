"""`MailConfig`: every size and design choice of the network, saved as `config.json` beside the weights."""

from typing import Any

from transformers import PretrainedConfig


class MailConfig(PretrainedConfig):
    """Configuration of `MailForReferringSegmentation`; the encoder's names and defaults are ViLT's.

    Encoder (ViLT-B/32):
        tower: which pre-trained encoder it is built as: `vilt` or `beit3`, see `mail.model.towers`.
        vocab_size, max_text_length: word pieces, positions of the text. type_vocab_size: BERT's segments (ViLT).
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, layer_norm_eps: the tower's blocks.
        patch_size: side of a patch in pixels.
        position_grid: side of the learned position grid (ViLT: 384 / 32 = 12); it is interpolated to the input's grid.

    Input:
        image_size: side of the square canvas in pixels; an image's longest side is resized to it.
        mask_stride: canvas pixels per cell of instance masks, targets and mask logits.
        image_mean, image_std: normalisation of pixels in [0, 1].

    Mask modality:
        mask_modality: `none`, `channels` (masks stacked as channels of the patches) or `tokens` (one per instance).
        max_instances: instance slots K; the best-scored proposals are kept.
        num_labels_of_instances: size of the label embedding; 0 leaves the proposer's category out.
        shape_size: side of the grid in which an instance's shape is described inside its own box.
        geometry_frequencies: octaves of Fourier features of boxes, beside their coordinates and sizes, for one
            projection that patches and instances share.
        geometry_init: `normal`, or `zero` to start exactly as the pre-trained encoder.
        attention: `joint`, every token to every token, or `one_way`: instances attend to words and patches, which
            attend to each other only, so that nothing but the selection depends on the proposals.
        coverage_bias: attention bias between an instance and the patches that it covers (per head, learned).
        paste: add the instances' output tokens to the pixels that they cover, before the decoder.
        selection: head and loss that say which proposal the expression means.
        choice: `one`, the proposals and "none of them" share a probability of 1; or `many`, each has its own one of
            belonging to what is meant, and what is chosen is the union of those that do.
        direct: the selected masks feed the mask logits directly.
        pixel_share: share of the mask losses that goes to the pixel decoder without the direct path. With one-way
            attention that is the answer without proposals, trained on every expression.

    Decoder:
        decoder_stride: canvas pixels per cell of the decoder's features: twice the mask stride, as `tiny` has it, for a
            quarter of the work (`docs/ablation.md`).
        decoder_dim, stem_dim: channels of the decoder and of the shallow pixel stem.

    Losses: `loss_mask_bce`, `loss_mask_dice`, `loss_selection`, `loss_no_target` are the weights of the terms;
        selection_min_iou: below this IoU of the best proposal the null slot is the right choice.
    """

    model_type = "mail"

    tower: str = "vilt"
    vocab_size: int = 30522
    type_vocab_size: int = 2
    max_text_length: int = 40
    pad_token_id: int | None = 0
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    patch_size: int = 32
    position_grid: int = 12

    image_size: int = 480
    mask_stride: int = 4
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)

    mask_modality: str = "tokens"
    max_instances: int = 32
    num_labels_of_instances: int = 0
    shape_size: int = 16
    geometry_frequencies: int = 0
    geometry_init: str = "zero"
    attention: str = "one_way"
    coverage_bias: bool = False
    paste: bool = False
    selection: bool = True
    choice: str = "one"
    direct: bool = True
    pixel_share: float = 0.75

    decoder_stride: int = 8
    decoder_dim: int = 128
    stem_dim: int = 64

    loss_mask_bce: float = 1.0
    loss_mask_dice: float = 1.0
    loss_selection: float = 0.25
    loss_no_target: float = 0.1
    selection_min_iou: float = 0.5

    def to_diff_dict(self) -> dict[str, Any]:
        """All its own fields, not only those that differ: a saved network stays as it is when a default changes."""
        found = super().to_diff_dict() | {name: getattr(self, name) for name in MailConfig.__annotations__}
        found.pop("auto_map", None)  # of the folder that it was read from: see `mail.model.card`
        return found

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.tower not in ("vilt", "beit3"):
            raise ValueError(f"tower {self.tower!r}: it is vilt or beit3")
        if self.mask_modality not in ("none", "channels", "tokens"):
            raise ValueError(f"mask_modality {self.mask_modality!r}: it is none, channels or tokens")
        if self.attention not in ("joint", "one_way"):
            raise ValueError(f"attention {self.attention!r}: it is joint or one_way")
        if self.choice not in ("one", "many"):
            raise ValueError(f"choice {self.choice!r}: it is one or many")
        if not 0 <= self.pixel_share < 1:
            raise ValueError(f"pixel_share {self.pixel_share}: it is at least 0 and less than 1")
        if self.geometry_init not in ("normal", "zero"):
            raise ValueError(f"geometry_init {self.geometry_init!r}: it is normal or zero")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide by {self.num_attention_heads} heads")
        for name in ("patch_size", "decoder_stride", "mask_stride"):
            if self.image_size % getattr(self, name):
                raise ValueError(f"image_size {self.image_size} is no multiple of {name} {getattr(self, name)}")
        if self.patch_size % self.mask_stride or self.patch_size % self.decoder_stride:
            raise ValueError("patch_size must be a multiple of mask_stride and of decoder_stride")
        if self.decoder_stride % self.mask_stride:
            raise ValueError("decoder_stride must be a multiple of mask_stride")

    @property
    def uses_instances(self) -> bool:
        return self.mask_modality != "none"

    @property
    def uses_instance_tokens(self) -> bool:
        return self.mask_modality == "tokens"

    @property
    def grid(self) -> int:
        """Patches along a side of the canvas."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Cells of instance masks, targets and mask logits along a side of the canvas (R)."""
        return self.image_size // self.mask_stride
