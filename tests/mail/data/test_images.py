import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mail.data import schema
from mail.data.images import ImageError, decode_image, open_image, stored_size, turn_upright, upright_rgb


def picture(height: int = 12, width: int = 20) -> np.ndarray:
    """Smooth enough for JPEG, and different in all four corners."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 4 % 256], axis=-1).astype(np.uint8)


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return save(Image.fromarray(picture()), kind, exif=exif, **options)


def test_png_comes_back_pixel_for_pixel():
    decoded = decode_image(save(Image.fromarray(picture())))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, picture())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_pixels_size_and_masks_alike(kind, orientation):
    data = with_orientation(kind, orientation)
    decoded = decode_image(data)
    np.testing.assert_allclose(decoded, turn_upright(picture(), orientation), atol=8 if kind == "JPEG" else 0)
    assert stored_size(data) == ((12, 20), orientation)
    assert upright_rgb(open_image(data)).getexif().get(0x0112, 1) == 1  # nobody turns it again


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_becomes_rgb(mode):
    assert decode_image(save(Image.fromarray(picture()).convert(mode))).shape == (12, 20, 3)


def test_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (230, 20, 30)).convert("CMYK")
    decoded = decode_image(save(red, "JPEG", quality=95))
    assert decoded[8, 8, 0] > 200
    assert decoded[8, 8, 1:].max() < 60


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (decode_image(save(clear)) == 255).all()


def test_transparent_palette_colour_is_laid_over_white():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert (decode_image(save(palette, "GIF", transparency=1)) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode_image(save(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(decoded[..., 0], ramp >> 8)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_file_is_a_decode_error(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = save(Image.fromarray(noise), kind)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * share)])
    assert caught.value.status == schema.STATUS_DECODE_ERROR


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"<html>404</html>", b"GIF89a", bytes(4096)])
def test_bytes_that_are_no_image_are_a_decode_error(data):
    for reader in (decode_image, stored_size):
        with pytest.raises(ImageError) as caught:
            reader(data)
        assert caught.value.status == schema.STATUS_DECODE_ERROR


def test_postscript_is_refused_without_running_an_interpreter():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError):
        decode_image(eps)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_broken_exif_does_not_cost_the_image(mode):
    data = save(Image.fromarray(picture()).convert(mode), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert decode_image(data).shape == (12, 20, 3)
    assert not upright_rgb(open_image(data)).getexif()


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 100_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bomb_is_refused_by_its_header(side):
    for reader in (decode_image, stored_size):
        with pytest.raises(ImageError) as caught:
            reader(png_that_declares(side, side))
        assert caught.value.status == schema.STATUS_TOO_LARGE


def test_limit_is_the_callers():
    data = save(Image.fromarray(picture()))
    assert decode_image(data, max_pixels=240).shape == (12, 20, 3)
    with pytest.raises(ImageError, match="20 x 12 pixels"):
        decode_image(data, max_pixels=239)
