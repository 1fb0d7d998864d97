"""`MailProcessor`: the only place where images are resized and masks rasterised.

Training, evaluation, prediction and serving all go through it, so that they cannot drift apart. It works on single
images and their expressions (`encode_*`, numpy, for input workers) and puts them together (`collate`, torch).

Geometry: the image's longest side is resized to the canvas side S, both sides to a multiple of the mask stride, and put
top-left on the square canvas. Both axes map edge to edge, so nothing shifts on the way there and back.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.nn import functional as F
from transformers import BatchFeature, ProcessorMixin

from mail import rle
from mail.errors import UserError
from mail.model.card import FoundByTransformers
from mail.model.configuration import MailConfig
from mail.model.coverage import coverage
from mail.model.post_processing import PostProcessing
from mail.model.text_coverage import TextCoverage
from mail.model.tokenization import check_text
from mail.proposals import Proposals

Arrays = dict[str, np.ndarray]

WORD_LENGTHS = (8, 16, 24)  # word pieces that a batch is padded to, the processor's most if it has longer ones
SLOT_STEP = 16  # instance slots of a batch are a multiple
FITS = {"one": ("instance_ious", rle.iou_matrix), "many": ("instance_inside", rle.inside_matrix)}
"""By `MailConfig.choice`: what the network learns its selection from, and what it is computed with."""


class MailProcessor(FoundByTransformers, PostProcessing, ProcessorMixin):
    """Turns images, expressions and proposals into the network's batch, and its output into masks.

    Args:
        tokenizer: BERT word pieces.
        image_size: canvas side S in pixels; mask_stride: pixels per mask cell (R = S / mask_stride).
        max_instances: proposals kept per image (K at most); max_text_length: word pieces kept (T at most).
        choice: what the network's selection means, see `MailConfig`.
        no_target_threshold: probability of "names nothing" above which an answer is empty; training chooses it on its
            validation split, where that has enough such sentences.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers reads this class attribute
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 480,
        mask_stride: int = 4,
        max_instances: int = 32,
        max_text_length: int = 40,
        choice: str = "one",
        no_target_threshold: float = 0.5,
        **kwargs: Any,
    ):
        super().__init__(tokenizer)
        self.image_size = image_size
        self.mask_stride = mask_stride
        self.max_instances = max_instances
        self.max_text_length = max_text_length
        self.choice = choice
        self.no_target_threshold = no_target_threshold

    @classmethod
    def for_config(cls, tokenizer: Any, config: MailConfig) -> "MailProcessor":
        """The processor that fits a network."""
        instances = config.max_instances if config.uses_instances else 0
        return cls(tokenizer, config.image_size, config.mask_stride, instances, config.max_text_length, config.choice)

    @property
    def mask_size(self) -> int:
        """Mask cells along a side of the canvas (R)."""
        return self.image_size // self.mask_stride

    def canvas_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in canvas pixels of an image of the given size, both multiples of the mask stride."""
        scale, stride = self.image_size / max(height, width), self.mask_stride

        def fit(side: int) -> int:
            return min(max(round(side * scale / stride), 1) * stride, self.image_size)

        return fit(height), fit(width)

    def encode(self, image: np.ndarray | Image.Image, proposals: Proposals, texts: Sequence[str]) -> dict[str, Arrays]:
        """One image with its proposals and sentences, for `collate`."""
        encoded = {"image": self.encode_image(image), "proposals": self.encode_proposals(proposals)}
        return encoded | {"texts": self.encode_texts(texts)}

    # one image -----------------------------------------------------------------------------------------------------

    def encode_image(self, image: np.ndarray | Image.Image) -> Arrays:
        """Upright RGB image, uint8 (H, W, 3) or PIL -> `pixel_values` uint8 (3, S, S), `pixel_size` int64 (2,).

        Raises:
            UserError: it is another kind of picture, which would have to be decoded first.
        """
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        turned = picture is image and picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if picture.mode != "RGB" or turned:
            raise UserError(
                f"a picture of mode {picture.mode}, not upright RGB: give mail.inference.load_image(picture)"
            )
        height, width = self.canvas_size(picture.height, picture.width)
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
        # Pillow's filter in a third of its time; a value differs by 1 of 255 at most
        resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
        canvas = np.zeros((3, self.image_size, self.image_size), np.uint8)
        canvas[:, :height, :width] = resized[0].numpy()
        return {"pixel_values": canvas, "pixel_size": np.array([height, width], np.int64)}

    def encode_proposals(self, proposals: Proposals) -> Arrays:
        """`instance_masks` uint8 (K, R, R), `instance_boxes` (K, 4), `instance_scores`, `instance_labels`,
        `instance_valid` (K,); K = min(len(proposals), max_instances), best scores first."""
        order = np.argsort(-proposals.scores, kind="stable")[: self.max_instances]
        height, width = proposals.size
        x, y, w, h = proposals.boxes[order].reshape(-1, 4).T
        boxes = np.stack([x / width, y / height, (x + w) / width, (y + h) / height], 1)
        return {
            "instance_masks": self.rasterise([proposals.rles[i] for i in order], proposals.size),
            "instance_boxes": boxes.astype(np.float32),
            "instance_scores": proposals.scores[order].astype(np.float32),
            "instance_labels": proposals.labels[order].astype(np.int64),
            "instance_valid": np.ones(len(order), bool),
        }

    def encode_targets(self, targets: Sequence[rle.RLE], proposals: Proposals) -> Arrays:
        """Of an image's n expressions: `target_masks` uint8 (n, R, R), `no_target` (n,), and how each proposal fits
        (n, K): `instance_ious`, or `instance_inside` where each is chosen by itself."""
        order = np.argsort(-proposals.scores, kind="stable")[: self.max_instances]
        kept = [proposals.rles[i] for i in order]
        name, matrix = FITS[self.choice]
        return {
            "target_masks": self.rasterise(targets, proposals.size),
            name: matrix(targets, kept).astype(np.float32).reshape(len(targets), len(kept)),
            "no_target": np.array([rle.area(t) == 0 for t in targets], bool),
        }

    def encode_texts(self, texts: Sequence[str]) -> Arrays:
        """`input_ids`, `attention_mask` int64 (n, max_text_length); longer expressions lose their end.

        `TextCoverage` tells which do. Raises UserError where a text is no valid Unicode.
        """
        encoded = self.tokenizer(
            list(map(check_text, texts)),
            padding="max_length",
            truncation=True,
            max_length=self.max_text_length,
            return_tensors="np",
        )
        return {k: encoded[k].astype(np.int64) for k in ("input_ids", "attention_mask")}

    def coverage(self, texts: Iterable[str]) -> TextCoverage:
        """What the network is given of these sentences, and what is lost."""
        return TextCoverage.of(self.tokenizer, texts, self.max_text_length)

    def rasterise(self, masks: Sequence[rle.RLE], size: tuple[int, int]) -> np.ndarray:
        """Coverage 0..255 of every mask cell: n RLEs of `size` (H, W) -> uint8 (n, R, R)."""
        cells = self.mask_size
        out = np.zeros((len(masks), cells, cells), np.uint8)
        height, width = (side // self.mask_stride for side in self.canvas_size(*size))
        out[:, :height, :width] = coverage(masks, size, (height, width))
        return out

    # batches -------------------------------------------------------------------------------------------------------

    def collate(self, items: Sequence[dict[str, Arrays]]) -> dict[str, torch.Tensor]:
        """Puts images together: items with keys `image`, `proposals`, `texts` and, in training, `targets`.

        Instance slots are padded to the fullest image of the batch, words to the longest expression, both to one of a
        few lengths: a compiled network is compiled for each shape that it meets.
        """
        batch = self.collate_images(items) | self.collate_texts([item["texts"] for item in items])
        if all("targets" in item for item in items):
            slots = self._slots(items)
            targets: dict[str, np.ndarray] = {}
            for key in ("target_masks", "no_target"):
                targets[key] = np.concatenate([item["targets"][key] for item in items])
            fits, _ = FITS[self.choice]
            targets[fits] = np.concatenate([_pad(item["targets"][fits], slots, 1) for item in items])
            batch |= {key: torch.from_numpy(value) for key, value in targets.items()}
        return batch

    def collate_images(self, items: Sequence[dict[str, Arrays]]) -> dict[str, torch.Tensor]:
        """The share of the images: what `MailForReferringSegmentation.encode_images` takes."""
        slots = self._slots(items)
        batch = {key: np.stack([item["image"][key] for item in items]) for key in ("pixel_values", "pixel_size")}
        for key in items[0]["proposals"]:
            batch[key] = np.stack([_pad(item["proposals"][key], slots, 0) for item in items])
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def collate_texts(self, texts: Sequence[Arrays]) -> dict[str, torch.Tensor]:
        """The share of the expressions, given image by image: `image_index`, `input_ids`, `attention_mask`."""
        counts = [len(each["input_ids"]) for each in texts]
        longest = max(int(each["attention_mask"].sum(1).max(initial=0)) for each in texts)
        longest = next((length for length in WORD_LENGTHS if longest <= length), self.max_text_length)
        batch = {"image_index": np.repeat(np.arange(len(texts)), counts)}
        for key in ("input_ids", "attention_mask"):
            batch[key] = np.concatenate([each[key][:, :longest] for each in texts])
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def _slots(self, items: Sequence[dict[str, Arrays]]) -> int:
        fullest = max(len(item["proposals"]["instance_scores"]) for item in items)
        if "targets" in items[0]:
            # empty slots where no image has a proposal: the selection loss asks for "none of them" there too, a step is
            # the same however its images are spread over workers, and every parameter has a gradient, as DDP wants it
            fullest = max(fullest, 1)
        return min(-(-fullest // SLOT_STEP) * SLOT_STEP, self.max_instances)

    def __call__(
        self,
        images: Any,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        proposals: Proposals | Sequence[Proposals] | None = None,
        **_: Any,
    ) -> BatchFeature:
        """A batch for the network.

        Args:
            images: one RGB image (PIL or (H, W, 3) uint8), or a list of them.
            text: for one image a sentence or a list of them; for a list of images one sentence or list for each.
            proposals: of the image, or one for each; None for no proposals.
        """
        single = isinstance(images, Image.Image | np.ndarray)
        pictures = [images] if single else list(images)
        texts: list[Any] = [text] if single else list(text)
        given = [proposals] if single or proposals is None else list(proposals)  # type: ignore[arg-type]
        if proposals is None:
            given = [Proposals((len(p), len(p[0]))) for p in map(np.asarray, pictures)]
        if not len(pictures) == len(texts) == len(given):
            raise ValueError(f"{len(pictures)} images, {len(texts)} texts and {len(given)} proposals do not match")
        items = []
        for picture, sentences, found in zip(pictures, texts, given, strict=True):
            sentences = [sentences] if isinstance(sentences, str) else list(sentences)
            items.append(self.encode(picture, found, sentences))  # type: ignore[arg-type]
        return BatchFeature(self.collate(items))


def _pad(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    if array.shape[axis] == length:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return np.pad(array, widths)
