"""Two kinds of pictures: other objects in other colours on other grounds, spoken of in the same way.

`shapes` is the data set; `tiles` looks otherwise, for what a network does on pictures unlike those that it was trained
on, and learns from a few of them. They share no kind, no colour and no texture, but all the words of places and sizes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from mail.data.scenes import textures
from mail.data.scenes.shapes import ANGULAR, OTHER_ANGULAR, OTHER_ROUND, ROUND

DomainName = Literal["shapes", "tiles"]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """How pictures of a domain look.

    Attributes:
        round, angular: kinds of objects. colours: what objects are made of, by name.
        background: makes float32 (height, width, 3) in 0..255. surface: as `textures.surface`.
    """

    round: tuple[str, ...]
    angular: tuple[str, ...]
    colours: Mapping[str, tuple[int, int, int]]
    background: Callable[[Random, int, int], np.ndarray]
    surface: Callable[[Random, int, int, float], np.ndarray]

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.round + self.angular


_COLOURS = {
    "brown": (122, 74, 36),
    "black": (34, 32, 36),
    "teal": (12, 128, 126),
    "navy": (24, 38, 104),
    "olive": (112, 116, 26),
    "maroon": (126, 18, 48),
    "magenta": (206, 30, 148),
    "turquoise": (38, 190, 196),
}


def _floor(rng: Random, height: int, width: int) -> np.ndarray:
    """Bright tiles with joints between them, each of its own shade, in any direction; veined, and lit from one side."""
    base = np.array([rng.uniform(196, 236) for _ in range(3)], np.float32)
    turn, side = rng.uniform(0, math.pi / 2), rng.uniform(16, 34)
    across = np.arange(width, dtype=np.float32)[None, :] / side
    down = np.arange(height, dtype=np.float32)[:, None] / side
    u = across * math.cos(turn) + down * math.sin(turn) + rng.uniform(0, 1)
    v = down * math.cos(turn) - across * math.sin(turn) + rng.uniform(0, 1)
    column, row = np.floor(u), np.floor(v)
    shades = np.sin(column * rng.uniform(11, 19) + row * rng.uniform(37, 61))
    joint = np.minimum(np.minimum(u - column, 1 - u + column), np.minimum(v - row, 1 - v + row)) * side < 0.9
    light = rng.uniform(3, 9) * shades + rng.uniform(2, 5) * textures.noise(rng, 0, height, width)
    light += rng.uniform(6, 14) * np.abs(textures.noise(rng, 2, height, width)) * -1
    light += rng.uniform(-14, 14) * (across * side / width - 0.5)
    canvas = base + light[:, :, None]
    canvas[joint] *= rng.uniform(0.62, 0.8)
    return np.clip(canvas, 0, 255)


def _glaze(rng: Random, height: int, width: int, radius: float) -> np.ndarray:
    """As `textures.surface`: spots, checks or broad bands that stand out, and a gloss."""
    rows = np.arange(height, dtype=np.float32)[:, None] + rng.uniform(0, 20)
    columns = np.arange(width, dtype=np.float32)[None, :] + rng.uniform(0, 20)
    light = np.full((height, width), 1.0, np.float32)
    pattern, pitch = rng.random(), rng.uniform(4.5, 8)
    if pattern < 0.3:  # spots
        near = np.hypot((rows % pitch) - pitch / 2, (columns % pitch) - pitch / 2)
        light += np.where(near < pitch * 0.27, rng.uniform(0.25, 0.45), 0).astype(np.float32)
    elif pattern < 0.55:  # checks
        light += rng.uniform(0.12, 0.22) * np.sign(np.sin(rows * 3 / pitch) * np.sin(columns * 3 / pitch))
    elif pattern < 0.75:  # bands
        light += rng.uniform(0.15, 0.3) * (np.sin((rows + columns * rng.uniform(-1, 1)) * 3 / pitch) > 0)
    gloss = np.hypot(rows - rows[0] - height * 0.35, columns - columns[0, 0] - width * 0.35)
    return light + 0.25 * np.exp(-((gloss / max(radius * 0.35, 1)) ** 2)).astype(np.float32)


DOMAINS: dict[str, Domain] = {
    "shapes": Domain(
        round=ROUND,
        angular=ANGULAR,
        colours=textures.COLOURS,
        background=textures.background,
        surface=textures.surface,
    ),
    "tiles": Domain(
        round=OTHER_ROUND,
        angular=OTHER_ANGULAR,
        colours=_COLOURS,
        background=_floor,
        surface=_glaze,
    ),
}
