"""From an image file's bytes to RGB pixels: the one decoder of the whole project.

The bytes are other people's: they may be truncated, grey, CMYK, with a palette, 16 bits deep, animated, rotated by an
EXIF tag, a decompression bomb, or no image at all. Everything that cannot be decoded raises `ImageError`, whose status
is the mask table's, so that a caller records the reason and goes on.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

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

    Transparency is laid over white, 16-bit grey is scaled to 8 bits, an animation gives its first frame.

    Returns:
        uint8 (H, W, 3), contiguous and writable.

    Raises:
        ImageError: `too_large` if the header declares more than `max_pixels` (nothing is decoded then), `decode_error`
            if the bytes are not an image or end early.
    """
    image = _open(data, max_pixels)
    try:
        image.load()
        orientation = orientation_of(image)  # after loading: Pillow has turned a TIFF by then and dropped the tag
        pixels = _to_rgb(image)
        if orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[orientation])
        return np.array(pixels)
    except Exception as error:  # whatever a codec raises on a broken file means the same: it cannot be decoded
        raise ImageError(schema.STATUS_DECODE_ERROR, _explain(error)) from error


def stored_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], int]:
    """(height, width) as stored, before any rotation, and the EXIF orientation (1 if there is none)."""
    image = _open(data, max_pixels)
    width, height = image.size
    if image.format == "TIFF":  # Pillow may have swapped the sides of a rotated TIFF when it opened it
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags[256]), int(tags[257])
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


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError(schema.STATUS_DECODE_ERROR, "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(schema.STATUS_TOO_LARGE, str(error)) from error
    except Exception as error:
        raise ImageError(schema.STATUS_DECODE_ERROR, _explain(error)) from error
    width, height = image.size
    if width * height > max_pixels:
        message = f"the image has {width} x {height} pixels, more than the {max_pixels:,} that are allowed"
        raise ImageError(schema.STATUS_TOO_LARGE, message)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        over = image.convert("RGBA")
        paper = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(paper, over).convert("RGB")
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip at 255 instead of scaling
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # floating-point TIFF: 0..1 or, if anything lies above, 0..255
        numbers = np.nan_to_num(np.asarray(image))
        scale = 255.0 if numbers.max(initial=0.0) <= 1.0 else 1.0
        return Image.fromarray(np.clip(numbers * scale, 0, 255).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _explain(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "the bytes are not an image of a known format"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
