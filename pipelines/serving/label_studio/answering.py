"""From masks to the regions of Label Studio's predictions: brush masks in its own run lengths, or polygons in percent.

https://labelstud.io/guide/predictions gives their form.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from mail import rle
from mail.answering import Answer
from mail.data.custom.brush import encode_brush
from mail.mask_formats import polygons
from pipelines.serving.label_studio.labelling import BRUSHES, Labelling

TOLERANCE = 0.75  # pixels that the line of a polygon may lie beside the mask's, so that a person can move its corners
SMALLEST = 0.01  # share of a mask that a part has at least, to become a polygon


def prediction(labelling: Labelling, answers: Sequence[Answer], version: str) -> dict[str, Any]:
    """What Label Studio shows of the answers about one photo, with a region or more for each; none if nothing is named.

    Where each region has a sentence of its own, it comes along. A mask in several parts is one brush region; polygons
    are one region a part, and the sentence is on the largest.
    """
    result: list[dict[str, Any]] = []
    for answer in answers:
        for place, value in enumerate(_values(labelling, answer)):
            region = _region(labelling, answer, labelling.control, labelling.kind, value) | {"score": answer.score}
            result.append(region)
            if labelling.spoken and place == 0:
                spoken = _region(labelling, answer, labelling.spoken, "textarea", {"text": [answer.text]})
                result.append(spoken | {"id": region["id"]})
    scores = [answer.score for answer in answers]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": version}


def _region(labelling: Labelling, answer: Answer, control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    height, width = answer.mask["size"]
    return {
        "id": secrets.token_hex(5),
        "from_name": control,
        "to_name": labelling.image,
        "type": kind,
        "original_width": int(width),
        "original_height": int(height),
        "image_rotation": 0,
        "value": value,
    }


def _values(labelling: Labelling, answer: Answer) -> list[dict[str, Any]]:
    if answer.empty:
        return []
    label = labelling.label(answer.text)
    named = {labelling.kind: [label]} if label is not None else {}
    if labelling.kind in BRUSHES:
        return [{"format": "rle", "rle": encode_brush(rle.decode(answer.mask)), **named}]
    height, width = answer.mask["size"]
    least = SMALLEST * rle.area(answer.mask)
    rings = [np.array(flat).reshape(-1, 2) for flat in polygons(answer.mask)]  # the largest first
    kept = [ring for place, ring in enumerate(rings) if place == 0 or _area(ring) >= least]
    percent = 100 / np.array([width, height])
    return [{"points": (simplified(r, TOLERANCE) * percent).tolist(), "closed": True, **named} for r in kept]


def simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed polygon (N, 2) with fewer corners: none that is left out is farther off (Douglas and Peucker's way)."""
    if len(ring) < 4:
        return ring
    opposite = int(np.argmax(np.linalg.norm(ring - ring[0], axis=1)))
    points = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(points), bool)
    keep[[0, opposite, -1]] = True
    parts = [(0, opposite), (opposite, len(points) - 1)]
    while parts:
        begin, end = parts.pop()
        if end - begin < 2:
            continue
        line, between = points[end] - points[begin], points[begin + 1 : end] - points[begin]
        length = float(np.hypot(*line))
        across = np.abs(between[:, 0] * line[1] - between[:, 1] * line[0]) / length if length else np.hypot(*between.T)
        farthest = int(np.argmax(across))
        if across[farthest] > tolerance:
            middle = begin + 1 + farthest
            keep[middle] = True
            parts += [(begin, middle), (middle, end)]
    return points[:-1][keep[:-1]] if keep.sum() > 3 else ring


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
