"""From a picture to RGB pixels: the one decoder of the whole project, for files, arrays and pictures of Pillow.

The bytes of a file are other people's: they may be truncated, grey, CMYK, with a palette, 16 bits deep, animated,
rotated by an EXIF tag, a decompression bomb, or no image at all. Everything that cannot be decoded raises `ImageError`,
whose status is the mask table's, so that a caller records the reason and goes on.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mail.data import schema

MAX_PIXELS = 100_000_000
# Only formats that Pillow decodes itself: its EPS reader, for one, would start Ghostscript on an untrusted file.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_ORIENTATION_TAG = 0x0112
_TURNS = {  # EXIF 2.32, tag Orientation: what brings the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """An image that cannot be used.

    Attributes:
        status: `schema.STATUS_DECODE_ERROR` (truncated, not an image) or `schema.STATUS_TOO_LARGE`.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB pixels of an image file, upright (EXIF orientation applied).

    Transparency is laid over white, 16-bit grey and floating-point values are scaled to 8 bits, an animation gives its
    first frame.

    Returns:
        uint8 (H, W, 3), contiguous and writable.

    Raises:
        ImageError: `too_large` if the header declares more than `max_pixels` (nothing is decoded then), `decode_error`
            if the bytes are not an image or end early.
    """
    return picture_pixels(open_image(data, max_pixels), max_pixels)


def picture_pixels(picture: Image.Image, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The same of a picture that Pillow has opened or made: what its file's bytes would give."""
    return np.array(upright_rgb(picture, max_pixels))


def upright_rgb(picture: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same still as a picture of Pillow, which must not be written to: it may be the given one."""
    _check_pixels(picture, max_pixels)
    try:
        picture.load()
        orientation = orientation_of(picture)  # after loading: Pillow has turned a TIFF by then and dropped the tag
        pixels = _to_rgb(picture)
        if orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[orientation])
        if pixels is not picture:
            pixels.info = {}  # or the tags that came along would say that it has to be turned
        return pixels
    except Exception as error:  # whatever a codec raises on a broken file means the same: it cannot be decoded
        raise ImageError(schema.STATUS_DECODE_ERROR, _explain(error)) from error


def array_pixels(array: np.ndarray) -> np.ndarray:
    """The same of an array: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha.

    uint8, or uint16, which is scaled as 16-bit files are; bool (H, W) is black and white. There is nothing to turn.

    Raises:
        ImageError: it is of another type or shape.
    """
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    first = channels in (2, 4) and array.shape[0] == 3  # more likely RGB with the channels first
    if array.dtype not in (np.uint8, np.uint16, np.bool_) or channels not in (1, 2, 3, 4) or array.size == 0 or first:
        hint = ""
        if array.dtype.kind == "f":
            hint = ": multiply values of 0..1 by 255, then .astype(numpy.uint8)"
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = ": put the channels last with .transpose(1, 2, 0)"
        wanted = "uint8 or uint16 and (H, W), (H, W, 3) or (H, W, 4)"
        message = f"an array must be {wanted}, this is {array.dtype} {array.shape}{hint}"
        raise ImageError(schema.STATUS_DECODE_ERROR, message)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if channels == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    elif channels != 3:
        array = np.array(_to_rgb(Image.fromarray(np.ascontiguousarray(array))))
    return np.require(array, requirements=["C", "W"])


def stored_size(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], int]:
    """Of a file (its path, or its bytes): (height, width) as stored, before any rotation, and the EXIF orientation."""
    with open_image(source, max_pixels) as image:
        return stored_size_of(image, source)


def stored_size_of(image: Image.Image, source: bytes | Path) -> tuple[tuple[int, int], int]:
    """The same of a file that is open, and was not decoded yet."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow may have swapped the sides of a rotated TIFF when it opened it
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags[256]), int(tags[257])
    if image.format == "PNG" and not _may_be_turned(source):  # Pillow would decode it all to look for the tag
        return (height, width), 1
    return (height, width), orientation_of(image)


def turn_upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a mask (H, W) that lies on the stored pixels the way `decode_image` turns the image."""
    return np.asarray(Image.fromarray(mask).transpose(_TURNS[orientation])) if orientation in _TURNS else mask


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the EXIF block is broken, which must not cost the image."""
    try:
        value: Any = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _may_be_turned(source: bytes | Path) -> bool:
    """Whether a PNG file has any of the chunks in which an orientation can be."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    return any(mark in data for mark in (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp"))


def open_image(source: bytes | Path, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An image file of one of the formats, opened but not decoded yet. Raises ImageError as `decode_image` does."""
    if source == b"":
        raise ImageError(schema.STATUS_DECODE_ERROR, "the file is empty")
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(schema.STATUS_TOO_LARGE, str(error)) from error
    except Exception as error:
        raise ImageError(schema.STATUS_DECODE_ERROR, _explain(error)) from error
    _check_pixels(image, max_pixels)
    return image


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        message = f"the image has {width} x {height} pixels, more than the {max_pixels:,} that are allowed"
        raise ImageError(schema.STATUS_TOO_LARGE, message)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip at 255 instead of scaling
        values = np.asarray(image).astype(np.int64)
        _check_range(float(values.max(initial=0)))
        grey = (values.clip(0, 65535) >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":  # floating-point TIFF: 0..1 or, if anything lies above, 0..255, or 16 bits
        numbers = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        greatest = float(numbers.max(initial=0.0))
        _check_range(greatest)
        scale = 255.0 if greatest <= 1.0 else 1.0 if greatest <= 255.0 else 1 / 256
        return Image.fromarray(np.clip(numbers * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        paper = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(paper, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _check_range(greatest: float) -> None:
    """Nobody knows what is white where the values go beyond 16 bits."""
    if greatest > 65535:
        raise ValueError(f"its values go up to {greatest:g}: save it with 8 or 16 bits a channel")


def _explain(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "the bytes are not an image of a known format"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
