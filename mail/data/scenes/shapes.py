"""Outlines of the kinds of object in a generated scene, and their anti-aliased coverage on the pixel grid.

An outline is a list of closed contours in a unit frame (x right, y down, farthest point about 1 from the centre); the
first is filled, the others are holes. Every outline is drawn by hand a little differently: proportions vary and the
contour wobbles.
"""

import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 4  # coverage is counted on a grid this much finer than the pixels
ROUND = ("circle", "ring", "heart", "crescent")
ANGULAR = ("square", "triangle", "star", "cross", "bar", "diamond")
KINDS = ROUND + ANGULAR
OTHER_ROUND = ("oval", "drop", "leaf", "flower")
OTHER_ANGULAR = ("hexagon", "arrow", "trapezoid", "bolt", "house", "gear")

Contours = list[np.ndarray]  # each (points, 2)


class Stamp(NamedTuple):
    """An object's window on the canvas: its top-left pixel, the coverage in it and what of it is a drawn outline.

    `coverage` and `rim` are float32 (h, w) between 0 and 1; the rim may reach beyond the coverage.
    """

    top: int
    left: int
    coverage: np.ndarray
    rim: np.ndarray | None


_ANGLES = np.linspace(0, 2 * math.pi, 40, endpoint=False)
_UNIT_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_HEART = np.stack(
    [
        16 * np.sin(_ANGLES) ** 3,
        -(13 * np.cos(_ANGLES) - 5 * np.cos(2 * _ANGLES) - 2 * np.cos(3 * _ANGLES) - np.cos(4 * _ANGLES)) - 2.5,
    ],
    axis=1,
) / np.array([16.0, 14.5])


def _circle(rng: Random) -> Contours:
    return [_UNIT_CIRCLE * (1, rng.uniform(0.9, 1.0))]


def _ring(rng: Random) -> Contours:
    outer = _UNIT_CIRCLE * (1, rng.uniform(0.9, 1.0))
    return [outer, outer * rng.uniform(0.48, 0.6)]


def _heart(rng: Random) -> Contours:
    return [_HEART * (rng.uniform(0.92, 1.0), rng.uniform(0.9, 1.0))]


def _crescent(rng: Random) -> Contours:
    # the outer arc, then back along an arc of a larger circle whose centre lies off to the right
    half = rng.uniform(0.72, 0.8) * math.pi
    outer = np.linspace(-half, half, 26) + math.pi
    tip = np.array([math.cos(half + math.pi), math.sin(half + math.pi)])
    depth = rng.uniform(0.02, 0.14)  # how far right of the centre the inner arc passes
    # a circle through both tips and the point (-depth, 0)
    centre = (tip[0] ** 2 + tip[1] ** 2 - depth**2) / (2 * (tip[0] + depth))
    radius = centre + depth
    spread = math.atan2(abs(tip[1]), tip[0] - centre)
    inner = np.linspace(spread, 2 * math.pi - spread, 20)
    if outer[-1] > math.pi:
        inner = inner[::-1]
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    back = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return [np.concatenate([arc, back])]


def _square(rng: Random) -> Contours:
    side, other = rng.uniform(0.8, 0.86), rng.uniform(0.74, 0.86)
    return [np.array([[-side, -other], [side, -other], [side, other], [-side, other]])]


def _triangle(rng: Random) -> Contours:
    lean = rng.uniform(-0.15, 0.15)
    base = rng.uniform(0.82, 0.98)
    return [np.array([[lean, -0.98], [base, 0.8], [-base, 0.8]])]


def _star(rng: Random) -> Contours:
    angles = np.arange(10) * math.pi / 5 - math.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.06, rng.uniform(0.44, 0.52))
    return [np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)]


def _cross(rng: Random) -> Contours:
    arm = rng.uniform(0.28, 0.36)
    long, across = 0.98, rng.uniform(0.86, 0.98)
    return [
        np.array(
            [
                [-arm, -long], [arm, -long], [arm, -arm], [across, -arm], [across, arm], [arm, arm],
                [arm, long], [-arm, long], [-arm, arm], [-across, arm], [-across, -arm], [-arm, -arm],
            ]
        )
    ]  # fmt: skip


def _bar(rng: Random) -> Contours:
    thick = rng.uniform(0.3, 0.38)
    bar = np.array([[-1.1, -thick], [1.1, -thick], [1.1, thick], [-1.1, thick]])
    return [bar[:, ::-1] if rng.random() < 0.5 else bar]


def _diamond(rng: Random) -> Contours:
    width = rng.uniform(0.66, 0.78)
    return [np.array([[0, -1.06], [width, 0], [0, 1.06], [-width, 0]])]


def _oval(rng: Random) -> Contours:
    return [_UNIT_CIRCLE * (1.05, rng.uniform(0.58, 0.68))]


def _drop(rng: Random) -> Contours:
    # a circle drawn out to a point at the top
    pull = np.clip(np.sin(_ANGLES - math.pi), 0, 1) ** 5
    points = _UNIT_CIRCLE * (rng.uniform(0.68, 0.76), 0.72)
    points[:, 0] *= 1 - 0.75 * pull
    return [points + np.stack([np.zeros(len(_ANGLES)), 0.3 - 0.62 * pull], axis=1)]


def _leaf(rng: Random) -> Contours:
    width = rng.uniform(0.42, 0.52)
    return [np.stack([1.05 * np.cos(_ANGLES), width * np.sin(_ANGLES) * np.abs(np.sin(_ANGLES))], axis=1)]


def _flower(rng: Random) -> Contours:
    petals, depth = rng.choice((5, 6)), rng.uniform(0.2, 0.26)
    angles = np.linspace(0, 2 * math.pi, 16 * petals, endpoint=False)
    radii = 1 - depth + depth * np.cos(petals * angles)
    return [np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)]


def _hexagon(rng: Random) -> Contours:
    angles = np.arange(6) * math.pi / 3
    return [np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1, rng.uniform(0.9, 1.0))]


def _arrow(rng: Random) -> Contours:
    shaft, head = rng.uniform(0.2, 0.27), rng.uniform(0.62, 0.74)
    tip, neck = [1.05, 0], rng.uniform(0.05, 0.2)
    upper = [[-1.0, -shaft], [neck, -shaft], [neck, -head]]
    lower = [[neck, head], [neck, shaft], [-1.0, shaft]]
    return [np.array([*upper, tip, *lower])]


def _trapezoid(rng: Random) -> Contours:
    top, half = rng.uniform(0.4, 0.5), rng.uniform(0.52, 0.6)
    return [np.array([[-top, -half], [top, -half], [1.0, half], [-1.0, half]])]


def _bolt(rng: Random) -> Contours:
    lean = rng.uniform(-0.06, 0.06)
    right = [[0.1, -1.05], [0.55, -1.05], [0.2 + lean, -0.25], [0.62, -0.25]]
    left = [[-0.4, 1.05], [-0.02 + lean, 0.1], [-0.5, 0.1]]
    return [np.array([*right, *left])]


def _house(rng: Random) -> Contours:
    side, eaves = rng.uniform(0.66, 0.74), rng.uniform(-0.2, -0.08)
    return [np.array([[0, -1.0], [0.95, eaves], [side, eaves], [side, 0.85], [-side, 0.85], [-side, eaves],
                      [-0.95, eaves]])]  # fmt: skip


def _gear(rng: Random) -> Contours:
    teeth, inner = 8, rng.uniform(0.74, 0.8)
    angles = np.linspace(0, 2 * math.pi, 4 * teeth, endpoint=False) + math.pi / (4 * teeth)
    radii = np.where(np.arange(4 * teeth) % 4 < 2, 1.0, inner)
    rim = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    return [rim, _UNIT_CIRCLE * rng.uniform(0.28, 0.36)]


_OUTLINES: dict[str, Callable[[Random], Contours]] = {
    "circle": _circle,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "bar": _bar,
    "diamond": _diamond,
    "oval": _oval,
    "drop": _drop,
    "leaf": _leaf,
    "flower": _flower,
    "hexagon": _hexagon,
    "arrow": _arrow,
    "trapezoid": _trapezoid,
    "bolt": _bolt,
    "house": _house,
    "gear": _gear,
}
# how far (radians) a kind may turn before it could be taken for another one or looks wrong
_TURN = {"square": 0.25, "diamond": 0.2, "heart": 0.45, "cross": 0.3, "triangle": 0.5, "bar": 0.4}
_TURN |= {"drop": 0.5, "trapezoid": 0.35, "bolt": 0.4, "house": 0.3}


def outline(kind: str, rng: Random) -> Contours:
    """A fresh outline of a kind: its own proportions, turn and wobble."""
    contours = _OUTLINES[kind](rng)
    turn = rng.uniform(-1, 1) * _TURN.get(kind, math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    rotation = np.array([[cos, sin], [-sin, cos]])
    lobes, phase, wobble = rng.randint(2, 5), rng.uniform(0, 6.3), rng.uniform(0, 0.035)
    turned = []
    for contour in contours:
        angle = np.arctan2(contour[:, 1], contour[:, 0])
        turned.append((contour * (1 + wobble * np.sin(lobes * angle + phase))[:, None]) @ rotation)
    return turned


def stamp(
    contours: Contours, centre: tuple[float, float], radius: float, size: tuple[int, int], rim_width: float
) -> Stamp | None:
    """Coverage of an outline placed at `centre` (x, y in pixels) on a canvas of `size` (H, W); None if all outside."""
    height, width = size
    x, y = centre
    reach = radius * 1.15 + rim_width + 1
    left, top = max(0, math.floor(x - reach)), max(0, math.floor(y - reach))
    right, bottom = min(width, math.ceil(x + reach)), min(height, math.ceil(y + reach))
    if right <= left or bottom <= top:
        return None
    fine = ((right - left) * SUPERSAMPLE, (bottom - top) * SUPERSAMPLE)
    filled = Image.new("L", fine)
    fill = ImageDraw.Draw(filled)
    # Pillow's coordinates name pixel centres, ours name pixel corners: half a fine pixel apart
    shift = np.array([(x - left) * SUPERSAMPLE - 0.5, (y - top) * SUPERSAMPLE - 0.5])
    paths = [(contour * (radius * SUPERSAMPLE) + shift).ravel().tolist() for contour in contours]
    for number, path in enumerate(paths):
        fill.polygon(path, fill=0 if number else 255)
    coverage = np.asarray(filled.reduce(SUPERSAMPLE), dtype=np.float32) / 255
    if rim_width == 0:
        return Stamp(top, left, coverage, None)
    edge = Image.new("L", fine)
    line = ImageDraw.Draw(edge)
    for path in paths:
        line.line(path + path[:4], fill=255, width=max(1, round(2 * rim_width * SUPERSAMPLE)))
    rim = np.asarray(edge.reduce(SUPERSAMPLE), dtype=np.float32) / 255
    return Stamp(top, left, coverage, rim)
