"""The gallery: one HTML file that shows what a model segments, for thousands of expressions, from disk.

The page carries everything: one small JPEG an image, and the masks as run lengths that it draws itself, only for what
is on the screen. Words and ids are other people's text; they reach the page as JSON data and become text nodes, never
HTML. Template: `gallery.html` beside this file.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from mail.data import files
from mail.rle import RLE, area

MAX_BYTES = 38 * 2**20
MAX_SEARCHABLE_VALUES = 60


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery: its original size, and a small JPEG in base64 (None if it cannot be decoded)."""

    height: int
    width: int
    jpeg: str | None


@dataclass(frozen=True)
class GalleryAnswer:
    """A model's answer to one expression; masks in the image's original resolution, None for the empty mask.

    Attributes:
        chosen: proposals that the answer is made of. best: the proposal that fits the ground truth best.
        notes: what is said of the answer beside its IoU.
    """

    mask: RLE | None
    iou: float
    score: float | None = None
    chosen: Sequence[RLE] = ()
    best: RLE | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class GalleryEntry:
    """One expression: its words, ground truth (None: names nothing), each model's answer, and its slices' values."""

    expr_id: str
    image_id: str
    text: str
    target: RLE | None
    answers: Sequence[GalleryAnswer]
    slices: Mapping[str, str] = field(default_factory=dict)


def thumbnail_side(images: int) -> int:
    """Longest side in pixels of the small pictures, so that the page of so many images stays below 40 MB."""
    for limit, side in ((300, 480), (1000, 320), (2000, 256), (4000, 176)):
        if images <= limit:
            return side
    return 128


def write_gallery(
    path: str | os.PathLike,
    *,
    title: str,
    models: Sequence[str],
    images: Mapping[str, GalleryImage],
    entries: Sequence[GalleryEntry],
    facts: Sequence[str] = (),
    figures: Sequence[Sequence[str]] = (),
    max_bytes: int = MAX_BYTES,
) -> int:
    """Writes the page; returns how many expressions it shows.

    All of them if that fits into `max_bytes`, else as many as fit: a third each of the worst, the best and random ones
    of the first model, which the page then says.

    Args:
        models: their names; the first one orders and filters, a second one is shown beside it.
        facts: short statements below the title (protocol, data store, ...).
        figures: a table's head and rows.
    """
    chosen = _choose(entries, images, max_bytes)
    said = list(facts)
    if len(chosen) < len(entries):
        said.append(f"shows {len(chosen)} of {len(entries)} expressions: worst, best and random ones")
    data = _page_data(chosen, images, models, said, figures)
    # "<" in JSON text must not end the script element it stands in
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    source = resources.files("mail.report").joinpath("gallery.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(source)
    filesystem, target = files.resolve(path)
    files.write_bytes(filesystem, target, template.render(title=title, data=Markup(text)).encode())
    return len(chosen)


def _page_data(
    entries: Sequence[GalleryEntry],
    images: Mapping[str, GalleryImage],
    models: Sequence[str],
    facts: Sequence[str],
    figures: Sequence[Sequence[str]],
) -> dict[str, Any]:
    used = list(dict.fromkeys(e.image_id for e in entries))
    image_number = {image_id: n for n, image_id in enumerate(used)}
    masks: dict[str, int] = {}  # an image's sentences share ground truths and proposals

    def mask(value: RLE | None) -> int:
        if value is None:
            return -1
        counts = value["counts"]
        return masks.setdefault(counts.decode("ascii") if isinstance(counts, bytes) else counts, len(masks))

    slices = _slices(entries)
    numbers = [{value: n for n, value in enumerate(s["values"])} for s in slices]
    rows = [
        {
            "id": e.expr_id,
            "image": image_number[e.image_id],
            "text": e.text,
            "target": mask(e.target if e.target is not None and area(e.target) else None),
            "answers": [
                {
                    "mask": mask(a.mask if a.mask is not None and area(a.mask) else None),
                    "iou": round(a.iou, 4),
                    "score": None if a.score is None else round(a.score, 4),
                    "chosen": [mask(c) for c in a.chosen],
                    "best": mask(a.best),
                    "notes": list(a.notes),
                }
                for a in e.answers
            ],
            "slices": [numbers[n][e.slices.get(s["name"], "")] for n, s in enumerate(slices)],
        }
        for e in entries
    ]
    return {
        "models": [{"name": name} for name in models],
        "facts": list(facts),
        "figures": [list(row) for row in figures],
        "slices": slices,
        "images": [{"id": i, **vars(images[i])} for i in used],
        "masks": list(masks),
        "entries": rows,
    }


def _slices(entries: Sequence[GalleryEntry]) -> list[dict[str, Any]]:
    """Every slice with its values and how many expressions have each; rare values of a slice with very many last."""
    result = []
    for name in dict.fromkeys(name for e in entries for name in e.slices):
        ordered = sorted(Counter(entry.slices.get(name, "") for entry in entries).items())
        if len(ordered) > MAX_SEARCHABLE_VALUES:
            ordered.sort(key=lambda item: -item[1])
        result.append({"name": name, "values": [v for v, _ in ordered], "counts": [n for _, n in ordered]})
    return result


def _choose(
    entries: Sequence[GalleryEntry], images: Mapping[str, GalleryImage], max_bytes: int
) -> Sequence[GalleryEntry]:
    """All entries if they fit, else worst, best and random ones in turn until the page is full; in their order."""
    costs = [_cost(e) for e in entries]
    picture = {i: len(image.jpeg or "") + len(i) + 60 for i, image in images.items()}
    if sum(costs) + sum(picture[i] for i in {e.image_id for e in entries}) <= max_bytes:
        return entries
    ious = np.array([e.answers[0].iou for e in entries])
    worst = np.argsort(ious, kind="stable")
    queues = np.stack([worst, worst[::-1], np.random.default_rng(0).permutation(len(entries))], axis=1)
    taken: set[int] = set()
    seen: set[str] = set()
    room = max_bytes
    for number in (int(n) for n in queues.ravel()):
        if number in taken:
            continue
        entry = entries[number]
        cost = costs[number] + (0 if entry.image_id in seen else picture[entry.image_id])
        if cost > room:
            break
        room -= cost
        taken.add(number)
        seen.add(entry.image_id)
    return [entries[n] for n in sorted(taken)]


def _cost(entry: GalleryEntry) -> int:
    """About the bytes of an expression on the page."""
    masks = [entry.target, *(m for a in entry.answers for m in (a.mask, a.best, *a.chosen))]
    return 160 + 4 * len(entry.text) + 120 * len(entry.answers) + sum(len(m["counts"]) + 4 for m in masks if m)
