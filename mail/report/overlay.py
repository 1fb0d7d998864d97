"""Masks drawn on images: a tint inside, a line around."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

PREDICTION = (255, 122, 26)
TARGET = (38, 166, 255)
PROPOSAL = (255, 255, 255)


def overlay(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    target: np.ndarray | None = None,
    proposals: Sequence[np.ndarray] = (),
    text: str | None = None,
) -> Image.Image:
    """Picture with the prediction tinted orange, the ground truth outlined in blue, proposals outlined in white.

    Args:
        image: RGB uint8 (H, W, 3).
        prediction, target, proposals: boolean masks (H, W).
        text: the expression, written below the picture.
    """
    pixels = image.copy()
    for mask in proposals:
        pixels = outline(pixels, mask, PROPOSAL)
    if prediction is not None:
        pixels = outline(tint(pixels, prediction, PREDICTION), prediction, PREDICTION)
    if target is not None:
        pixels = outline(pixels, target, TARGET)
    picture = Image.fromarray(pixels)
    return picture if text is None else _with_caption(picture, text)


def tint(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float = 0.45) -> np.ndarray:
    """Image with `colour` mixed into the mask's pixels."""
    tinted = image.copy()
    mixed = image[mask] * (1 - strength) + np.array(colour) * strength
    tinted[mask] = mixed.round().astype(np.uint8)
    return tinted


def outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int | None = None) -> np.ndarray:
    """Image with the mask's inner border in `colour`, as thick as the picture's size asks for."""
    width = width or max(1, round(max(mask.shape) / 320))
    inner = mask.copy()
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    lined = image.copy()
    lined[mask & ~inner] = colour
    return lined


def _with_caption(picture: Image.Image, text: str) -> Image.Image:
    line = 14
    columns = max(8, picture.width // 7)
    wrapped = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
    page = Image.new("RGB", (picture.width, picture.height + line * len(wrapped) + 4), "white")
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    for number, part in enumerate(wrapped):
        draw.text((3, picture.height + 2 + line * number), part, fill="black")
    return page
