"""Answers many requests as one batch, and keeps of each photo what no sentence changes: what a service runs on.

    engine = Engine(Predictor.from_pretrained("runs/demo/model"))
    engine.answer([Question(Path("photo.jpg").read_bytes(), ("woman in red on the left",))])[0].answers[0].mask

Of a photo everything before the words is most of the work: decoding, the proposer, the image part of the network. It is
kept by the sha256 of the file's bytes, so that the next sentence about the photo costs a fraction of the first.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from cachetools import LRUCache

from mail import rle
from mail.data.images import MAX_PIXELS, ImageError, decode_image
from mail.inference import EncodedImage, Predictor
from mail.model import Segmentation
from mail.model.post_processing import chosen_proposals
from mail.proposals import Proposals

PARTS = ("decode", "propose", "encode", "words", "masks")
"""What an answer's time is made of: the photo's pixels, its instance masks, the image part, the words, run lengths."""


@dataclass(frozen=True)
class Question:
    """Sentences about one photo, which is a file's bytes."""

    photo: bytes = field(repr=False)
    texts: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.photo).hexdigest()


@dataclass
class Answer:
    """What a sentence names.

    Attributes:
        mask: run lengths at the photo's own resolution, empty if it names nothing.
        score: confidence, see `Segmentation`. no_target: probability that it names nothing.
        chosen: numbers of the photo's proposals that the mask is made of, best first.
    """

    text: str
    mask: rle.RLE
    score: float
    no_target: float
    chosen: list[int]

    @property
    def empty(self) -> bool:
        return rle.area(self.mask) == 0

    @property
    def box(self) -> list[int] | None:
        """[x, y, width, height] in pixels, None for an empty mask."""
        return None if self.empty else [int(v) for v in rle.bbox(self.mask)]


@dataclass
class Answered:
    """The answers about one photo.

    Attributes:
        size: (height, width) after EXIF rotation.
        cached: whether what no sentence changes was known already.
    """

    size: tuple[int, int]
    answers: list[Answer]
    proposals: Proposals
    cached: bool


class Engine:
    """A predictor with its memory of photos. One batch runs at a time, from whichever thread it is asked.

    Args:
        cache_bytes: for the photos that were asked about last; on the predictor's device.
        max_pixels: of a photo.
        threads: that decode photos and encode masks (default: one a CPU).
        observe: is told the seconds that each of `PARTS` took, batch by batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        cache_bytes: int = 2**29,
        max_pixels: int = MAX_PIXELS,
        threads: int | None = None,
        observe: Callable[[str, float], None] = lambda part, seconds: None,
    ):
        self.predictor = predictor
        self.max_pixels = max_pixels
        self.observe = observe
        self.photos: LRUCache[str, EncodedImage] = LRUCache(cache_bytes, getsizeof=_bytes_of)
        self._threads = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="photos")
        self._lock = threading.Lock()

    def answer(self, questions: Sequence[Question]) -> list[Answered | ImageError]:
        """The answers of each question; an ImageError in the place of those whose photo cannot be used."""
        with self._lock:
            known = {q.sha256 for q in questions if q.sha256 in self.photos}
            encoded = self._encoded(questions)
            photos = [(q, p) for q in questions if isinstance(p := encoded[q.sha256], EncodedImage)]
            with self._timed("words"):
                segmented = self.predictor.segment([p for _, p in photos], [q.texts for q, _ in photos])
            with self._timed("masks"):
                texts = [text for q, _ in photos for text in q.texts]
                answers = self._threads.map(_answer, texts, [one for several in segmented for one in several])
                ready = iter(list(answers))
        found: list[Answered | ImageError] = []
        for question in questions:
            photo = encoded[question.sha256]
            if isinstance(photo, ImageError):
                found.append(photo)
                continue
            own = [next(ready) for _ in question.texts]
            found.append(Answered(photo.size, own, photo.proposals, question.sha256 in known))
        return found

    def _encoded(self, questions: Sequence[Question]) -> dict[str, EncodedImage | ImageError]:
        """Of every photo that is asked about what is known, or found out now."""
        new: dict[str, Future[np.ndarray]] = {}
        found: dict[str, EncodedImage | ImageError] = {}
        for question in questions:
            key = question.sha256
            if (photo := self.photos.get(key)) is not None:
                found[key] = photo
            elif key not in new:
                new[key] = self._threads.submit(decode_image, question.photo, self.max_pixels)
        pixels: dict[str, np.ndarray] = {}
        with self._timed("decode", bool(new)):
            for key, future in new.items():
                try:
                    pixels[key] = future.result()
                except ImageError as error:
                    found[key] = error
        if pixels:
            images = list(pixels.values())
            with self._timed("propose"):
                # one by one: a detector pads a batch, and what it finds must not depend on who else asks just now
                proposals = [own for image in images for own in self.predictor.propose([image])]
            with self._timed("encode"):
                encoded = self.predictor.encode(images, proposals)
            for key, photo in zip(pixels, encoded, strict=True):
                found[key] = photo
                if _bytes_of(photo) <= self.photos.maxsize:
                    self.photos[key] = photo
        return found

    @contextmanager
    def _timed(self, part: str, counts: bool = True) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if counts:
            self.observe(part, time.perf_counter() - begun)


def _answer(text: str, segmentation: Segmentation) -> Answer:
    mask = rle.encode(segmentation.mask)
    chosen = chosen_proposals(segmentation) if segmentation.mask.any() else []
    return Answer(text, mask, segmentation.score, segmentation.no_target_probability, chosen)


def _bytes_of(photo: EncodedImage) -> int:
    return photo.tokens.nbytes + sum(len(r["counts"]) for r in photo.proposals.rles)
