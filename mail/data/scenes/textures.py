"""What the surfaces of a generated scene look like: cluttered backgrounds, and textured, shaded objects.

Noise comes from fields that are made once per process from a fixed seed, of which every scene cuts its own windows:
drawing fresh noise for each image would cost more than everything else together.
"""

import colorsys
import functools
import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from mail.data.scenes.shapes import Stamp

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 36, 40),
    "orange": (242, 128, 22),
    "yellow": (246, 222, 60),
    "green": (44, 160, 62),
    "blue": (36, 92, 214),
    "purple": (128, 48, 172),
    "pink": (250, 150, 196),
    "white": (240, 240, 236),
}
Colour = tuple[int, int, int]
Surface = Callable[[Random, int, int, float], np.ndarray]
_FIELD = 512  # side of a noise field
_GRAINS = (1, 3, 8, 24)  # pixels per noise cell


@functools.cache
def _noise_fields() -> list[np.ndarray]:
    """One float32 field (_FIELD, _FIELD) per grain, mean 0 and standard deviation 1."""
    generator = np.random.default_rng(20211110)
    fields = []
    for grain in _GRAINS:
        cells = -(-_FIELD // grain) + 1
        coarse = Image.fromarray(generator.standard_normal((cells, cells)).astype(np.float32))
        field = np.asarray(coarse.resize((cells * grain, cells * grain), Image.Resampling.BICUBIC))[:_FIELD, :_FIELD]
        fields.append(np.ascontiguousarray((field - field.mean()) / field.std(), dtype=np.float32))
    return fields


def noise(rng: Random, grain: int, height: int, width: int) -> np.ndarray:
    """A float32 window (height, width) of noise, mean about 0, deviation about 1; `grain` indexes _GRAINS."""
    field = _noise_fields()[grain]
    if height > _FIELD or width > _FIELD:
        field = np.tile(field, (-(-height // _FIELD) + 1, -(-width // _FIELD) + 1))
    top, left = rng.randrange(field.shape[0] - height + 1), rng.randrange(field.shape[1] - width + 1)
    window = field[top : top + height, left : left + width]
    if rng.random() < 0.5:
        window = window[::-1]
    return window[:, ::-1] if rng.random() < 0.5 else window


def _waves(rng: Random, height: int, width: int, shortest: float, longest: float) -> np.ndarray:
    """float32 (height, width) stripes between -1 and 1 in any direction, period in pixels."""
    turn, pace = rng.uniform(0, math.pi), 2 * math.pi / rng.uniform(shortest, longest)
    across = np.arange(width, dtype=np.float32) * (math.cos(turn) * pace) + rng.uniform(0, 6.3)
    down = np.arange(height, dtype=np.float32) * (math.sin(turn) * pace)
    return np.sin(across[None, :] + down[:, None])


def _dull(rng: Random, low: float, high: float) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.4), rng.uniform(low, high))
    return red * 255, green * 255, blue * 255


def background(rng: Random, height: int, width: int) -> np.ndarray:
    """A cluttered background, float32 (height, width, 3) in 0..255: two dull colours blended by a gradient, mottled,
    often striped, with scribbles and specks on it that belong to no object."""
    first, second = np.array(_dull(rng, 0.2, 0.62), np.float32), np.array(_dull(rng, 0.2, 0.62), np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    across = np.arange(width, dtype=np.float32) * (math.cos(turn) / width)
    down = np.arange(height, dtype=np.float32) * (math.sin(turn) / height)
    blend = across[None, :] + down[:, None]
    blend += 0.5 - blend.mean()
    blend += rng.uniform(0.1, 0.35) * noise(rng, 3, height, width)
    np.clip(blend, 0, 1, out=blend)
    light = rng.uniform(4, 10) * noise(rng, 0, height, width)
    light += rng.uniform(2, 10) * noise(rng, rng.choice((1, 2)), height, width)
    if rng.random() < 0.5:
        light += rng.uniform(5, 16) * _waves(rng, height, width, 5, 24)
    if rng.random() < 0.25:
        light += rng.uniform(6, 14) * np.sign(_waves(rng, height, width, 8, 30) * _waves(rng, height, width, 8, 30))
    canvas = first + blend[:, :, None] * (second - first)
    canvas += light[:, :, None]
    return _scribble(rng, np.clip(canvas, 0, 255).astype(np.uint8)).astype(np.float32)


def _scribble(rng: Random, canvas: np.ndarray) -> np.ndarray:
    height, width = canvas.shape[:2]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 10)):
        if rng.random() < 0.3:  # a vivid one, thin, so that colour alone does not give objects away
            ink = tuple(round(v * 0.8) for v in rng.choice(list(COLOURS.values())))
            thick = 1
        else:
            ink = tuple(round(v) for v in _dull(rng, 0.1, 0.75))
            thick = rng.randint(1, 3)
        x, y, turn = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 6.3)
        points = [(x, y)]
        for _ in range(rng.randint(2, 7)):
            turn += rng.uniform(-0.9, 0.9)
            x, y = x + 11 * math.cos(turn), y + 11 * math.sin(turn)
            points.append((x, y))
        draw.line(points, fill=ink, width=thick)
    for _ in range(rng.randint(0, 12)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.5, 2.2)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(round(v) for v in _dull(rng, 0.1, 0.8)))
    return np.asarray(image)


def surface(rng: Random, height: int, width: int, radius: float) -> np.ndarray:
    """Brightness factors float32 (height, width) of an object's surface: light from one side times a pattern."""
    turn, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.16)
    across = (np.arange(width, dtype=np.float32) - width / 2) * (math.cos(turn) * depth / radius)
    down = (np.arange(height, dtype=np.float32) - height / 2) * (math.sin(turn) * depth / radius)
    light = (0.93 + across)[None, :] + down[:, None]
    pattern = rng.random()
    if pattern < 0.3:
        light -= rng.uniform(0.05, 0.14) * (1 + _waves(rng, height, width, 4, 9))
    elif pattern < 0.45:
        light -= rng.uniform(0.05, 0.12) * (1 + _waves(rng, height, width, 5, 10) * _waves(rng, height, width, 5, 10))
    elif pattern < 0.75:
        light += rng.uniform(0.04, 0.1) * noise(rng, rng.choice((0, 1)), height, width)
    return light


def paint(canvas: np.ndarray, stamped: Stamp, colour: Colour, radius: float, rng: Random, surface: Surface) -> None:
    """Lays an object over the canvas (H, W, 3) in place: fill, shading, pattern and outline."""
    height, width = stamped.coverage.shape
    window = canvas[stamped.top : stamped.top + height, stamped.left : stamped.left + width]
    base = np.array([channel + rng.uniform(-10, 10) for channel in colour], np.float32)
    fill = surface(rng, height, width, radius)[:, :, None] * base
    if stamped.rim is not None:
        tone = rng.choice((0.45, 0.6, 0.75)) if colour == COLOURS["white"] or rng.random() < 0.75 else 1.25
        fill += stamped.rim[:, :, None] * (base * tone - fill)
    fill -= window
    window += stamped.coverage[:, :, None] * fill
