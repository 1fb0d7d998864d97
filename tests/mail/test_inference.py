"""The predictor: any photo, several sentences, masks at the photo's own resolution."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mail
from mail import rle
from mail.errors import UserError
from mail.inference import Predictor, check_device, load_image
from mail.model import MailForReferringSegmentation, MailProcessor, Segmentation, tokenizer_from_texts
from mail.model.folder import check_model_folder
from mail.model.post_processing import chosen_proposals
from mail.proposals import Proposals
from tests.boxes import micro_config

TEXTS = ["the red box", "green one", "a blue thing on the left"]


def make_model(folder: Path) -> Path:
    """A network with random weights in a MODEL folder; it does not think that an expression names nothing."""
    torch.manual_seed(0)
    tokenizer = tokenizer_from_texts(TEXTS)
    config = micro_config(vocab_size=len(tokenizer))
    network = MailForReferringSegmentation(config)
    torch.nn.init.constant_(network.decoder.no_target.bias, -4.0)
    network.save_pretrained(folder)
    MailProcessor.for_config(tokenizer, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_pretrained(model, device="cpu")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def proposals(height: int, width: int) -> Proposals:
    masks = np.zeros((3, height, width), bool)
    for n in range(3):
        masks[n, 5 * n : 5 * n + 10, 3 * n : 3 * n + 12] = True
    rles = rle.encode_many(masks)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.ones(3, np.int32)
    return Proposals((height, width), scores, labels, np.array([rle.bbox(r) for r in rles], np.float32), rles)


def test_each_sentence_gets_a_mask_of_the_photos_size(predictor: Predictor):
    answers = predictor.predict(photo(50, 71), TEXTS, proposals(50, 71))
    assert [a.mask.shape for a in answers] == [(50, 71)] * 3
    assert all(a.mask.dtype == bool and 0 <= a.score <= 1 and len(a.selection) == 3 for a in answers)


def test_sentences_of_an_image_do_not_change_each_others_answers(predictor: Predictor):
    image, found = photo(50, 71), proposals(50, 71)
    together = predictor.predict(image, TEXTS, found)
    alone = [predictor.predict(image, text, found)[0] for text in TEXTS]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.mask, b.mask)
        assert a.score == pytest.approx(b.score, abs=1e-5)


def test_images_of_a_batch_do_not_change_each_others_answers(predictor: Predictor):
    images = [photo(50, 71), photo(64, 32, 1), photo(20, 90, 2)]
    found = [proposals(50, 71), None, proposals(20, 90)]
    texts = [TEXTS, [], TEXTS[:1]]
    answers = predictor.predict_batch(images, texts, found)
    assert [len(a) for a in answers] == [3, 0, 1]
    alone = predictor.predict(images[2], TEXTS[0], found[2])[0]
    assert np.array_equal(answers[2][0].mask, alone.mask)


def test_more_sentences_than_fit_into_one_forward_pass(predictor: Predictor, monkeypatch: pytest.MonkeyPatch):
    image, found = photo(50, 71), proposals(50, 71)
    expected = predictor.predict(image, TEXTS, found)
    monkeypatch.setattr("mail.inference.EXPRESSIONS_PER_FORWARD", 2)
    answers = predictor.predict(image, TEXTS, found)
    assert [np.array_equal(a.mask, b.mask) for a, b in zip(answers, expected, strict=True)] == [True] * 3


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1)])
def test_a_strip_is_answered_at_its_own_size(predictor: Predictor, size: tuple[int, int]):
    assert predictor.predict(photo(*size), TEXTS[0])[0].mask.shape == size


@pytest.mark.parametrize("text", ["", " ".join(["word"] * 200), "日本 🎈"])
def test_any_text_is_answered(predictor: Predictor, text: str):
    assert predictor.predict(photo(30, 40), text)[0].mask.shape == (30, 40)


def test_a_photo_comes_as_file_bytes_picture_or_array(predictor: Predictor, tmp_path: Path):
    pixels = photo(30, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for image in (pixels, Image.fromarray(pixels), buffer.getvalue(), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(load_image(image), pixels)


def pictures() -> Iterator[tuple[str, Image.Image, dict]]:
    """Pictures that Pillow's own `convert` would make something else of, each as a file of some format."""
    random, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    colours = Image.fromarray(photo(20, 30))
    clear = Image.fromarray(random.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    yield "PNG", Image.fromarray(random.integers(0, 65536, (20, 30), dtype=np.uint16)), {}
    yield "PNG", colours.quantize(8), {"transparency": 3}
    yield "PNG", clear, {}
    yield "PNG", clear.convert("LA"), {}
    yield "PNG", colours.convert("1"), {}
    yield "PNG", colours, {"exif": exif}
    yield "JPEG", colours.convert("CMYK"), {"exif": exif}
    yield "TIFF", colours, {"exif": exif}
    yield "TIFF", Image.fromarray(random.random((20, 30), np.float32)), {}
    yield "TIFF", Image.fromarray(random.integers(0, 65536, (20, 30), dtype=np.int32)), {}
    yield "TIFF", colours.convert("LAB"), {}


@pytest.mark.parametrize(("kind", "picture", "options"), list(pictures()))
def test_a_picture_gives_the_same_pixels_as_path_bytes_and_picture(tmp_path: Path, kind: str, picture, options):
    picture.save(tmp_path / "a", kind, **options)
    expected = load_image(tmp_path / "a")
    assert expected.shape == ((30, 20, 3) if "exif" in options else (20, 30, 3))
    assert expected.std() > 10  # neither clipped nor black
    with Image.open(tmp_path / "a") as opened:
        assert np.array_equal(load_image(opened), expected)
    assert np.array_equal(load_image((tmp_path / "a").read_bytes()), expected)


def test_arrays_are_what_they_say_or_refused_with_a_hint():
    rgb, alpha = photo(20, 30), np.full((20, 30, 1), 255, np.uint8)
    alpha[:10] = 0
    over = load_image(np.concatenate([rgb, alpha], 2))
    assert (over[:10] == 255).all()
    assert np.array_equal(over[10:], rgb[10:])
    assert np.array_equal(load_image(rgb[..., 0])[..., 2], rgb[..., 0])
    assert np.array_equal(load_image(rgb.astype(np.uint16) << 8), rgb)
    assert load_image(rgb[:, ::-1]).strides == rgb.strides  # torch wants no negative ones
    with pytest.raises(UserError, match=r"multiply values of 0\.\.1 by 255"):
        load_image((rgb / 255).astype(np.float32))
    with pytest.raises(UserError, match=r"channels last with \.transpose\(1, 2, 0\)"):
        load_image(rgb.transpose(2, 0, 1))
    with pytest.raises(UserError, match="its values go up to 70000"):
        load_image(Image.fromarray(np.full((4, 4), 70000, np.int32)))


def test_a_rotated_photo_is_answered_upright(predictor: Predictor):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(30, 40)).save(buffer, "JPEG", exif=exif)
    assert predictor.predict(buffer.getvalue(), TEXTS[0])[0].mask.shape == (40, 30)


@pytest.mark.parametrize(
    "image", [b"", b"no image", "nowhere.jpg", np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_what_is_no_photo_is_said(image: object):
    with pytest.raises(UserError):
        load_image(image)  # type: ignore[arg-type]


def test_proposals_of_another_image_are_refused(predictor: Predictor):
    with pytest.raises(UserError, match=r"\(50, 71\) pixels"):
        predictor.predict(photo(30, 40), TEXTS[0], proposals(50, 71))


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [([0.3, 0.05, 0.6], [2, 0]), ([0.2, 0.2, 0.22, 0.2], [2]), ([0.4, 0.1], []), ([], [])],
)
def test_chosen_proposals_are_those_with_a_share_best_first_if_one_fits(shares: list[float], chosen: list[int]):
    answer = Segmentation(np.zeros((1, 1), bool), 0.0, 0.0, np.array(shares, np.float32))
    assert chosen_proposals(answer) == chosen


def test_folders_that_are_no_model_are_refused(model: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        check_model_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json"):
        check_model_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vilt"}))
    with pytest.raises(UserError, match="type 'vilt'"):
        check_model_folder(tmp_path)


def test_weights_that_do_not_fit_are_refused_instead_of_filled_with_noise(model: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in sorted(weights) if name.startswith("decoder")))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 are missing or unknown"):
        Predictor.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be loaded"):
        Predictor.from_pretrained(folder)


def test_one_line_predicts(model: Path):
    assert mail.predict(photo(30, 40), TEXTS[0], model=model).mask.shape == (30, 40)


def test_one_line_predicts_many_sentences(model: Path):
    together = mail.predict(photo(30, 40), TEXTS, model=model)
    assert len(together) == len(TEXTS)
    alone = mail.predict(photo(30, 40), TEXTS[1], model=model)
    assert np.array_equal(together[1].mask, alone.mask)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu", "meta", "hpu", "xla", "cuda:-1", "é"])
def test_a_device_that_is_not_there_is_one_line_that_says_what_is(device: str) -> None:
    with pytest.raises(UserError, match=rf"^there is no device '{device}' here \(.+\): use cpu") as refused:
        check_device(device)
    assert "\n" not in str(refused.value)
