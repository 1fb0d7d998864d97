"""Reads a mask from a PNG, however it was written: the foreground is what a viewer shows as white (or as a colour).

Masks come with 1, 8 and 16 bits, with a palette in any order, as colours, as grey with alpha, and with the alpha alone
(a cut-out thing, or one flat colour). What is not two-valued, such as a picture of probabilities, is refused.
"""

import numpy as np
from PIL import Image

from mail.data.images import ImageError, open_image, orientation_of, turn_upright
from mail.errors import first_few

_COLOUR = 1 << 24  # what is added to the number of a colour, to tell it from a grey


def read_mask_png(data: bytes) -> np.ndarray:
    """The mask in a PNG file, upright: bool (H, W).

    Raises:
        ValueError: it is no PNG, or no mask: more than two values, two of which none is black, or its colours
            and its alpha contradict each other. What it says can follow the file's name.
    """
    try:
        image = open_image(data, formats=("PNG",))
        image.load()
        shown = _shown(image)
    except (ImageError, OSError, SyntaxError) as error:
        raise ValueError(f"cannot be read as a PNG: {error}") from None
    values = np.unique(shown)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        named = [_name(int(value)) for value in values[:5]]
        raise ValueError(f"holds the values {first_few(named, 4)}: a mask has two, 0 for the background")
    return turn_upright(shown != 0, orientation_of(image))


def _shown(image: Image.Image) -> np.ndarray:
    """What a viewer shows, over black: int (H, W), one number for each different grey or colour, 0 for black."""
    colours, alpha = _channels(image)
    levels = np.unique(alpha) if alpha is not None else np.array([255])
    if alpha is None or (len(levels) == 1 and levels[0] > 0):
        return colours
    if (colours == colours.flat[0]).all():  # the mask is in the alpha alone
        return alpha
    if partly := levels[(levels > 0) & (levels < 255)].tolist():
        raise ValueError(f"is transparent in part (alpha {first_few(partly, 4)}): save the mask without transparency")
    shown = np.where(alpha == 0, 0, colours)
    if not shown.any():
        raise ValueError("shows nothing but black and hides the rest: save the mask without transparency")
    return shown


def _channels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours, one number each, and the alpha channel (None without): int (H, W)."""
    if image.mode in ("1", "L") and not image.has_transparency_data:  # as nearly all are: no detour
        return np.asarray(image.convert("L")), None
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image).astype(np.int64)
        clear = image.info.get("transparency")
        return values, None if clear is None else np.where(values == clear, 0, 255)
    pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
    red, green, blue, alpha = np.moveaxis(pixels, -1, 0)
    colours = np.where((red == green) & (green == blue), red, _COLOUR | red << 16 | green << 8 | blue)
    return colours, alpha if image.has_transparency_data else None


def _name(value: int) -> str:
    """A value as a person knows it: a grey, or a colour."""
    return f"#{value % _COLOUR:06x}" if value >= _COLOUR else str(value)
