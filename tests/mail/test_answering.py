"""The engine of a service: many requests as one batch, the same answers as one by one, what a photo costs only once."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mail import rle
from mail.answering import Answered, Engine, Question
from mail.data.images import ImageError
from mail.inference import Predictor
from mail.model.image_tokens import ImageTokens
from tests.mail.test_inference import TEXTS, make_model
from tests.registry import make_proposer


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A real detector and a network, neither of them trained."""
    folder: Path = tmp_path_factory.mktemp("model")
    make_model(folder)
    make_proposer(folder / "proposer")
    return Predictor.from_pretrained(folder, device="cpu")


def file(height: int, width: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_batch_gives_what_each_request_alone_would_and_a_bad_photo_costs_only_its_own(predictor: Predictor) -> None:
    a, b = file(50, 71, 0), file(64, 40, 1)
    asked = [
        Question(a, (TEXTS[0],)),
        Question(a[:200], (TEXTS[0],)),
        Question(b, tuple(TEXTS[:3])),
        Question(a, (TEXTS[1],)),
    ]
    found = Engine(predictor).answer(asked)
    assert isinstance(found[1], ImageError)
    for question, answered in zip(asked, found, strict=True):
        if isinstance(answered, Answered):
            expected = predictor.predict(question.photo, question.texts)
            assert [answer.text for answer in answered.answers] == list(question.texts)
            for answer, own in zip(answered.answers, expected, strict=True):
                assert np.array_equal(rle.decode(answer.mask), own.mask)
                assert answer.score == pytest.approx(own.score, abs=1e-5)
                assert answer.no_target == pytest.approx(own.no_target_probability, abs=1e-5)
                assert set(answer.chosen) <= set(range(len(answered.proposals)))
    assert [isinstance(f, Answered) and f.cached for f in found] == [False] * 4


def test_the_proposer_and_the_image_part_run_once_a_photo(predictor: Predictor) -> None:
    parts: list[str] = []
    engine = Engine(predictor, observe=lambda part, _: parts.append(part))
    photo = file(50, 71, 0)
    (first,) = engine.answer([Question(photo, (TEXTS[0],))])
    assert parts == ["decode", "propose", "encode", "words", "masks"]
    parts.clear()
    (second,) = engine.answer([Question(photo, (TEXTS[1], TEXTS[0]))])
    assert parts == ["words", "masks"]
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert second.cached
    assert second.answers[1].mask == first.answers[0].mask


def test_the_memory_of_photos_is_bounded_in_bytes_and_forgets_the_oldest(predictor: Predictor) -> None:
    engine = Engine(predictor)
    photos = [file(50, 71, seed) for seed in range(4)]
    engine.answer([Question(photos[0], (TEXTS[0],))])
    one = int(engine.photos.currsize)
    assert one > 9_000
    engine = Engine(predictor, cache_bytes=int(2.5 * one))
    for photo in photos:
        engine.answer([Question(photo, (TEXTS[0],))])
    assert list(engine.photos) == [Question(p, ()).sha256 for p in photos[-2:]]
    assert engine.photos.currsize <= 2.5 * one
    small = Engine(predictor, cache_bytes=one // 2)  # nothing fits: it is answered all the same
    assert isinstance(small.answer([Question(photos[0], (TEXTS[0],))])[0], Answered)
    assert not small.photos


def test_tokens_of_photos_with_and_without_instances_go_together() -> None:
    def tokens(instances: int) -> ImageTokens:
        shape = {"masks": (1, instances, 4, 4), "instances": (1, instances, 8), "coverage": (1, instances, 5)}
        own = {name: torch.ones(s) if instances else None for name, s in shape.items()}
        valid = torch.ones(1, instances, dtype=torch.bool) if instances else None
        return ImageTokens(torch.ones(1, 5, 8), torch.ones(1, 5), torch.ones(1, 2, 4, 4), valid=valid, **own)

    joined = ImageTokens.together([tokens(0), tokens(3), tokens(1)])
    assert joined.valid is not None
    assert joined.valid.tolist() == [[False] * 3, [True] * 3, [True, False, False]]
    assert joined.coverage is not None
    assert joined.coverage.shape == (3, 3, 5)
    assert joined.instances is not None
    assert joined.instances.sum((1, 2)).tolist() == [0, 24, 8]
    assert ImageTokens.together([tokens(0), tokens(0)]).masks is None
