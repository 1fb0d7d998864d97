"""`predict` on photos, as the command line runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mail import rle
from pipelines.__main__ import main
from tests.mail.test_inference import make_model, photo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def predict(model: Path, images: list[Path], out: Path, *more: str) -> int:
    names = [str(i) for i in images]
    return main(["predict", "--model", str(model), "--image", *names, "--text", "red box", "--out", str(out), *more])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA"])
def test_a_photo_of_any_mode_gives_a_mask_of_its_size(model: Path, tmp_path: Path, mode: str):
    suffix = "jpg" if mode in ("RGB", "L", "CMYK") else "png"
    Image.fromarray(photo(40, 60)).convert(mode).save(tmp_path / f"a.{suffix}")
    assert predict(model, [tmp_path / f"a.{suffix}"], tmp_path / "mask.png") == 0
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == (40, 60)
    assert set(np.unique(mask)) <= {0, 255}


def test_the_mask_lies_on_the_upright_photo(model: Path, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert predict(model, [tmp_path / "a.jpg"], tmp_path / "out" / "mask.png") == 0
    assert Image.open(tmp_path / "out" / "mask.png").size == (40, 60)


def test_run_lengths_say_the_same_as_the_png(model: Path, tmp_path: Path):
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png")
    assert predict(model, [tmp_path / "a.png"], tmp_path / "m.png", "--rle", str(tmp_path / "m.jsonl")) == 0
    row = json.loads((tmp_path / "m.jsonl").read_text())
    mask = {"size": row["rle"]["size"], "counts": row["rle"]["counts"].encode()}
    assert np.array_equal(rle.decode(mask), np.asarray(Image.open(tmp_path / "m.png")) > 0)


def test_several_photos_go_to_a_folder(model: Path, tmp_path: Path):
    for name in ("a", "b"):
        Image.fromarray(photo(40, 60)).save(tmp_path / f"{name}.png")
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    assert predict(model, images, tmp_path / "out", "--overlay") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.png"}
    assert Image.open(tmp_path / "out" / "a.png").mode == "RGB"
    assert predict(model, images, tmp_path / "one.png") == 2


def test_a_missing_proposer_is_said(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png")
    assert predict(model, [tmp_path / "a.png"], tmp_path / "m.png") == 0
    assert "without instance masks" in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0 cut"])
def test_a_file_that_is_no_photo_is_one_clear_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
):
    (tmp_path / "a.jpg").write_bytes(content)
    assert predict(model, [tmp_path / "a.jpg"], tmp_path / "m.png") == 2
    error = capsys.readouterr().err
    assert "a.jpg cannot be used as an image" in error
    assert "Traceback" not in error


def test_other_wrong_input_is_one_clear_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png")
    assert predict(model, [tmp_path / "none.jpg"], tmp_path / "m.png") == 2
    assert "no file" in capsys.readouterr().err
    assert predict(model, [tmp_path / "a.png"], tmp_path / "m.jpg") == 2
    assert "must end in .png" in capsys.readouterr().err
    assert predict(tmp_path / "nothing", [tmp_path / "a.png"], tmp_path / "m.png") == 2
    assert predict(model, [tmp_path / "a.png"], tmp_path / "m.png", "--text", " ") == 2


def test_a_photo_is_never_written_over(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photos = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in photos:
        Image.fromarray(photo(40, 60)).save(path)
    Image.fromarray(photo(40, 60)).save(tmp_path / "c.jpg")
    Image.fromarray(photo(40, 60)).save(tmp_path / "c.png")  # whatever it is, it belongs to the photo beside it
    (tmp_path / "link.png").symlink_to(photos[0])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert predict(model, photos[:1], photos[0]) == 2
    assert predict(model, photos[:1], tmp_path) == 2
    assert predict(model, photos, tmp_path) == 2
    assert predict(model, photos[:1], tmp_path / "link.png") == 2
    assert predict(model, photos[:1], tmp_path / "m.png", "--rle", str(photos[0])) == 2
    assert predict(model, [tmp_path / "c.jpg"], tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert all("would write over" in line for line in lines[:5])
    assert "c.png is there already, beside the photos" in lines[5]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_the_network_is_not_given_of_the_sentence_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Image.fromarray(photo(40, 60)).save(tmp_path / "a.png")
    out, lines = str(tmp_path / "m.png"), tmp_path / "m.jsonl"
    arguments = ["predict", "--model", str(model), "--image", str(tmp_path / "a.png"), "--out", out]
    assert main([*arguments, "--text", "the red box", "--rle", str(lines)]) == 0
    row = json.loads(lines.read_text())
    assert (row["unknown_pieces"], row["cut_pieces"]) == (0, 0)
    assert "pieces" not in capsys.readouterr().err
    assert main([*arguments, "--text", "the 犬 " * 3 + "on the left", "--rle", str(lines)]) == 0
    row = json.loads(lines.read_text())
    assert (row["unknown_pieces"], row["cut_pieces"]) == (3, 3)
    said = capsys.readouterr().err
    assert "3 of 9 word pieces (33.3%) are unknown" in said
    assert "longer than the 8 pieces that the network takes and lose their end (first: 'on the left')" in said
    assert main([*arguments, "--text", "the \udcff"]) == 2
    assert "--text 'the \\udcff' is no valid Unicode" in capsys.readouterr().err
