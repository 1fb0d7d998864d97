"""From any photo and sentences to masks: `Predictor`, the one way in which a trained network is used.

    from mail.inference import Predictor

    predictor = Predictor.from_pretrained("runs/demo/model")
    answer = predictor.predict("photo.jpg", ["woman in red on the left"])[0]
    answer.mask, answer.score

`evaluate`, `predict` and serving go through it, with the same decoder and processor as training. An image is decoded,
proposed, rasterised and embedded once, however many sentences are asked about it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
import torch
from PIL import Image

from mail import addresses
from mail.data.images import ImageError, array_pixels, decode_image, picture_pixels
from mail.errors import UserError
from mail.model import MailForReferringSegmentation, MailOutput, MailProcessor, Segmentation
from mail.model.folder import check_model_folder, load_model
from mail.model.image_tokens import ImageTokens
from mail.proposals import Proposals
from mail.proposers import Proposer, load_proposer

AnyImage = np.ndarray | Image.Image | bytes | str | os.PathLike
EXPRESSIONS_PER_FORWARD = 64
BUNDLED_PROPOSER = "proposer"  # folder inside a MODEL folder


@dataclass
class EncodedImage:
    """What is known of an image before a sentence is asked about it.

    Attributes:
        size: (height, width) after EXIF rotation.
        tokens: one row, on the predictor's device.
    """

    size: tuple[int, int]
    proposals: Proposals
    tokens: ImageTokens


class Predictor:
    """A network with its processor and, so that a photo alone is enough, its proposer.

    Args:
        model, processor: as `from_pretrained` gives them.
        proposer: finds the instance masks of images that come without; None predicts without masks.
        device: default: the GPU if there is one.
    """

    def __init__(
        self,
        model: MailForReferringSegmentation,
        processor: MailProcessor,
        proposer: Proposer | None = None,
        device: str | torch.device | None = None,
    ):
        self.device = torch.device(device or default_device())
        self.model = model.to(self.device).eval()  # type: ignore[arg-type]
        self.processor = processor
        self.proposer = proposer

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        proposer_path: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
    ) -> "Predictor":
        """Predictor of a MODEL folder; its proposer is that of `proposer_path`, else the one bundled in the folder.

        Raises:
            UserError: the folder is not a model, or the device is not there.
        """
        device = check_device(device or default_device())
        folder = check_model_folder(path)
        model, processor = load_model(folder)
        bundled = folder / BUNDLED_PROPOSER
        if proposer_path is None and bundled.is_dir():
            proposer_path = bundled
        proposer = None
        if proposer_path is not None and model.config.uses_instances:
            proposer = load_proposer(os.fspath(proposer_path), device=str(device))
        return cls(model, processor, proposer, device)

    def predict(
        self, image: AnyImage, texts: str | Sequence[str], proposals: Proposals | None = None
    ) -> list[Segmentation]:
        """One answer per sentence, at the image's original resolution.

        Args:
            image: path, file content, PIL image or array, see `load_image`; EXIF rotation is applied.
            texts: one sentence or several.
            proposals: instance masks of the image; default: the predictor's proposer finds them.

        Raises:
            UserError: the image cannot be read, or the proposals belong to an image of another size.
        """
        sentences = [texts] if isinstance(texts, str) else list(texts)
        return self.predict_batch([load_image(image)], [sentences], [proposals])[0]

    def predict_batch(
        self,
        images: Sequence[np.ndarray],
        texts: Sequence[Sequence[str]],
        proposals: Sequence[Proposals | None] | None = None,
        threshold: float = 0.5,
        no_target_threshold: float | None = None,
    ) -> list[list[Segmentation]]:
        """Answers for several images, each with all of its sentences.

        Args:
            images: RGB arrays (H, W, 3) uint8.
            texts: the sentences of each image.
            proposals: instance masks of each image; None where the proposer shall find them.
            threshold: probability from which a pixel belongs to the mask. no_target_threshold: see `post_process`.
        """
        asked = [i for i, (_, sentences) in enumerate(zip(images, texts, strict=True)) if len(sentences)]
        given: list[Proposals | None] = [None] * len(images) if proposals is None else list(proposals)
        found = self._proposals(images, given)
        if not asked:
            return [[] for _ in images]
        encoded = self._encoded([images[i] for i in asked], [found[i] for i in asked])
        answers: list[list[Segmentation]] = [[] for _ in images]
        segmented = self.segment(encoded, [texts[i] for i in asked], threshold, no_target_threshold)
        for image_number, own in zip(asked, segmented, strict=True):
            answers[image_number] = own
        return answers

    def propose(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        """What the proposer finds in each image; nothing, if there is no proposer or the network takes no masks."""
        return self._proposals(images, [None] * len(images))

    def encode(
        self, images: Sequence[np.ndarray], proposals: Sequence[Proposals | None] | None = None
    ) -> list["EncodedImage"]:
        """The part of `predict_batch` that does not depend on sentences, which is most of its time; for `segment`."""
        given: list[Proposals | None] = [None] * len(images) if proposals is None else list(proposals)
        return self._encoded(images, self._proposals(images, given)) if len(images) else []

    @torch.no_grad()
    def segment(
        self,
        images: Sequence["EncodedImage"],
        texts: Sequence[Sequence[str]],
        threshold: float = 0.5,
        no_target_threshold: float | None = None,
    ) -> list[list[Segmentation]]:
        """The other part: the answers to the sentences of each image, as `predict_batch` gives them."""
        asked = [i for i, (_, sentences) in enumerate(zip(images, texts, strict=True)) if len(sentences)]
        answers: list[list[Segmentation]] = [[] for _ in images]
        if not asked:
            return answers
        batch = self._moved(self.processor.collate_texts([self.processor.encode_texts(texts[i]) for i in asked]))
        index, words, mask = batch["image_index"], batch["input_ids"], batch["attention_mask"]
        tokens = ImageTokens.together([images[i].tokens for i in asked])
        owner = [asked[j] for j in index.tolist()]  # the image of each expression
        for start in range(0, len(owner), EXPRESSIONS_PER_FORWARD):
            part = slice(start, start + EXPRESSIONS_PER_FORWARD)
            with self._precision():
                output: MailOutput = self.model.segment(tokens.of(index[part]), words[part], mask[part])
            sizes, found = [images[i].size for i in owner[part]], [images[i].proposals for i in owner[part]]
            segmentations = self.processor.post_process(output, sizes, found, threshold, no_target_threshold)
            for image_number, segmentation in zip(owner[part], segmentations, strict=True):
                answers[image_number].append(segmentation)
        return answers

    def _proposals(self, images: Sequence[np.ndarray], given: list[Proposals | None]) -> list[Proposals]:
        if not self.model.config.uses_instances or self.proposer is None:
            pairs = zip(images, given, strict=True)
            return [p if p is not None else Proposals((int(i.shape[0]), int(i.shape[1]))) for i, p in pairs]
        missing = [n for n, p in enumerate(given) if p is None]
        proposed = self.proposer.propose([images[n] for n in missing]) if missing else []
        complete = dict(zip(missing, proposed, strict=True))
        return [complete[n] if p is None else p for n, p in enumerate(given)]

    @torch.no_grad()
    def _encoded(self, images: Sequence[np.ndarray], found: Sequence[Proposals]) -> list["EncodedImage"]:
        sizes = [(int(i.shape[0]), int(i.shape[1])) for i in images]
        for size, own in zip(sizes, found, strict=True):
            if own.size != size:
                raise UserError(f"the proposals belong to an image of {own.size} pixels (height, width), not {size}")
        encode_image, encode_proposals = self.processor.encode_image, self.processor.encode_proposals
        items = [
            {"image": encode_image(image), "proposals": encode_proposals(own)}
            for image, own in zip(images, found, strict=True)
        ]
        batch = self._moved(self.processor.collate_images(items))
        with self._precision():
            tokens = self.model.encode_images(**batch)
        rows = torch.arange(len(images), device=self.device)[:, None]
        return [EncodedImage(own.size, own, tokens.of(row)) for own, row in zip(found, rows, strict=True)]

    def _moved(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _precision(self) -> torch.autocast:
        # bf16 only where the hardware has it: on a CPU autocast costs many times what it saves
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it. Raises UserError otherwise."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # a device without numbers, `meta`, has no items
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        there += ", mps" if torch.backends.mps.is_available() else ""
        text = str(error).splitlines()[0]
        why = "no such kind" if text.startswith("Expected one of") else text.split(". ")[0][:100]
        raise UserError(f"there is no device {str(device)!r} here ({why}): use {there}") from None
    return found


def default_device() -> str:
    """`cuda` where there is a usable GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_image(image: AnyImage) -> np.ndarray:
    """RGB pixels uint8 (H, W, 3), upright, of whatever a caller has: the same picture gives the same pixels.

    Args:
        image: path, a file's bytes, a picture of Pillow, or an array as `mail.data.images.array_pixels` takes it.

    Raises:
        UserError: no such file, it cannot be decoded, or the array is not an image.
    """
    name = "the image"
    try:
        if isinstance(image, np.ndarray):
            return array_pixels(image)
        if isinstance(image, Image.Image):
            return picture_pixels(image)
        if isinstance(image, bytes):
            return decode_image(image)
        name = os.fspath(image)
        return decode_image(addresses.local_path(name).read_bytes())
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
    except ImageError as error:
        raise UserError(f"{name} cannot be used as an image: {error}") from None


@lru_cache(maxsize=2)
def _cached_predictor(model: str, proposer: str | None) -> Predictor:
    return Predictor.from_pretrained(model, proposer)


@overload
def predict(
    image: AnyImage, texts: str, *, model: str | os.PathLike, proposer: str | os.PathLike | None = None
) -> Segmentation: ...
@overload
def predict(
    image: AnyImage,
    texts: list[str] | tuple[str, ...],
    *,
    model: str | os.PathLike,
    proposer: str | os.PathLike | None = None,
) -> list[Segmentation]: ...
def predict(
    image: AnyImage,
    texts: str | list[str] | tuple[str, ...],
    *,
    model: str | os.PathLike,
    proposer: str | os.PathLike | None = None,
) -> Segmentation | list[Segmentation]:
    """The mask of what a sentence names in an image, or one for each of several; the model stays loaded between calls.

    The image is decoded, proposed, rasterised and embedded once for all sentences.

    Args:
        image: path, file content, PIL image or array, see `load_image`.
        texts: one sentence, or a list of them.
        model: MODEL folder. proposer: PROPOSER folder, default: the one bundled with the model.
    """
    predictor = _cached_predictor(os.fspath(model), None if proposer is None else os.fspath(proposer))
    answers = predictor.predict(image, texts)
    return answers[0] if isinstance(texts, str) else answers
