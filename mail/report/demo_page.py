"""The demo's report: one HTML file with the figures, the learning curves and pictures; it needs no other file."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mail import rle
from mail.data import files
from mail.proposals import Proposals
from mail.report.overlay import overlay

PICTURE_SIDE = 288  # pixels; scenes are smaller, and lines drawn on enlarged pixels are finer
CURVE_WIDTH, CURVE_HEIGHT = 460, 200
COLOURS = ("#e8590c", "#868e96")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One expression with what two networks made of it.

    Attributes:
        text, split: the expression and where it is from.
        image: RGB uint8 (H, W, 3).
        target: ground truth. proposals: the image's instance masks. predictions: one a network, by its title.
        ious: IoU of each prediction.
    """

    text: str
    split: str
    image: np.ndarray
    target: rle.RLE
    proposals: Proposals
    predictions: Mapping[str, rle.RLE | None]
    ious: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A measured quantity of one or more runs: title, and per run the (step, value) pairs."""

    title: str
    runs: Mapping[str, Sequence[tuple[int, float]]]


def write_demo_page(
    path: str | os.PathLike,
    report: Mapping[str, Any],
    curves: Sequence[Curve],
    examples: Mapping[str, Sequence[Example]],
    template: str = "demo_report.html.j2",
) -> None:
    """Writes the page. `report` is what `report.json` holds, `examples` the pictures by heading."""
    environment = Environment(loader=PackageLoader("mail", "report"), autoescape=True, undefined=StrictUndefined)
    environment.filters["points"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    groups = {
        heading: [{"example": e, "proposals": _picture(e, None), "predictions": _predictions(e)} for e in chosen]
        for heading, chosen in examples.items()
    }
    page = environment.get_template(template).render(
        report=report, curves=[_drawing(c) for c in curves], groups=groups, colours=COLOURS
    )
    files.write_bytes(*files.resolve(path), page.encode())


def _predictions(example: Example) -> list[dict[str, Any]]:
    empty = np.zeros(example.image.shape[:2], bool)
    return [
        {"title": title, "iou": example.ious[title], "picture": _picture(example, rle.decode(m) if m else empty)}
        for title, m in example.predictions.items()
    ]


def _picture(example: Example, prediction: np.ndarray | None) -> str:
    """The image with a prediction and the ground truth drawn on it, or with the proposals, as a data address."""
    factor = max(1, round(PICTURE_SIDE / max(example.image.shape[:2])))

    def enlarged(pixels: np.ndarray) -> np.ndarray:
        return pixels.repeat(factor, 0).repeat(factor, 1)

    image = enlarged(example.image)
    if prediction is None:
        picture = overlay(image, proposals=[enlarged(rle.decode(mask)) for mask in example.proposals.rles])
    else:
        picture = overlay(image, enlarged(prediction), enlarged(rle.decode(example.target)))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _drawing(curve: Curve) -> dict[str, Any]:
    """Coordinates of an SVG drawing: the axes' ends, and a line per run."""
    points = [p for run in curve.runs.values() for p in run]
    last_step = max((step for step, _ in points), default=1) or 1
    # a loss starts far above where it stays: the top is what all but the first few per cent stay below
    top = float(np.quantile([value for _, value in points], 0.98)) * 1.05 if points else 1.0
    top = top or 1.0

    def place(step: float, value: float) -> str:
        return f"{CURVE_WIDTH * step / last_step:.1f},{CURVE_HEIGHT * (1 - min(max(value / top, 0), 1)):.1f}"

    lines = {name: " ".join(place(s, v) for s, v in _thinned(run)) for name, run in curve.runs.items()}
    return {
        "title": curve.title,
        "lines": lines,
        "top": top,
        "last_step": last_step,
        "size": (CURVE_WIDTH, CURVE_HEIGHT),
    }


def _thinned(run: Sequence[tuple[int, float]], most: int = 120) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    if not run:
        return []
    parts = np.array_split(np.array(run, float), min(most, len(run)))
    return [(float(p[:, 0].mean()), float(p[:, 1].mean())) for p in parts]
