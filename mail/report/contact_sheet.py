"""The contact sheet of a data store: things in their photos with the sentences about them, as one PNG and as one page.

The page needs no other file, and shows more of them. Sentences and ids are other people's text: the template escapes
them.
"""

import base64
import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from mail.data import files
from mail.report.overlay import TARGET, outline, tint

SIDE = 320  # pixels of a cell's longest side
_COLUMNS, _GAP, _LINE, _SENTENCES = 4, 14, 18, 3
_INK, _QUIET, _PAPER, _FRAME = "#17202b", "#5c6876", "#ffffff", "#e3e8ed"


@dataclass(frozen=True)
class Cell:
    """One thing: its photo, small, with its mask drawn; what is said about it; its split and id.

    Attributes:
        picture: RGB; None if the photo cannot be decoded. texts: the sentences. note: what stands below them.
    """

    picture: Image.Image | None
    texts: Sequence[str]
    note: str


def picture_of(pixels: np.ndarray, mask: np.ndarray | None, side: int = SIDE) -> Image.Image:
    """A photo (H, W, 3) of at most `side` pixels with a mask (H, W) tinted and outlined in it; None is no mask."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    if mask is not None and mask.any():
        # a thing of a few pixels must not vanish with the reduction
        covered = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
        shown = covered >= min(128, int(covered.max()))
        small = outline(tint(small, shown, TARGET, 0.4), shown, TARGET, width=2)
    return Image.fromarray(small)


def write_png(path: str | os.PathLike, title: str, cells: Sequence[Cell]) -> None:
    """Writes the sheet: four in a row."""
    rows = [cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)]
    captions = [[_lines(cell) for cell in row] for row in rows]
    frames = [max([cell.picture.height if cell.picture else SIDE // 2 for cell in row], default=0) for row in rows]
    below = [_LINE * (max(map(len, lines)) + 1) for lines in captions]
    head = 2 * _GAP + _LINE
    size = _GAP + min(_COLUMNS, len(cells)) * (SIDE + _GAP), head + sum(frames) + sum(below) + 2 * _GAP * len(rows)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, _INK, ImageFont.load_default(16))
    top = head
    for row, lines, frame, lower in zip(rows, captions, frames, below, strict=True):
        for place, (cell, caption) in enumerate(zip(row, lines, strict=True)):
            left = _GAP + place * (SIDE + _GAP)
            draw.rectangle((left, top, left + SIDE - 1, top + frame - 1), _FRAME)
            if cell.picture is not None:
                width, height = cell.picture.size
                sheet.paste(cell.picture, (left + (SIDE - width) // 2, top + (frame - height) // 2))
            else:
                draw.text((left + 10, top + 10), "the photo cannot be decoded", _QUIET, ImageFont.load_default(13))
            _write(draw, left, top + frame + 4, caption, cell.note)
        top += frame + lower + 2 * _GAP
    out = io.BytesIO()
    sheet.save(out, "PNG")
    files.write_bytes(*files.resolve(path), out.getvalue())


def write_page(path: str | os.PathLike, title: str, facts: Sequence[str], cells: Sequence[Cell]) -> None:
    """Writes the page. `facts` are lines below the title."""
    environment = Environment(loader=PackageLoader("mail", "report"), autoescape=True, undefined=StrictUndefined)
    shown = [{"jpeg": _jpeg(cell.picture), "texts": cell.texts, "note": cell.note} for cell in cells]
    page = environment.get_template("contact_sheet.html.j2").render(title=title, facts=facts, cells=shown)
    files.write_bytes(*files.resolve(path), page.encode())


def _lines(cell: Cell) -> list[str]:
    """A cell's sentences, as many as there is room for."""
    lines: list[str] = []
    for text in cell.texts[:_SENTENCES]:
        lines += textwrap.wrap(text, 44, max_lines=2, placeholder=" …") or ["(empty)"]
    if len(cell.texts) > _SENTENCES:
        lines[-1] = f"{lines[-1]}   (+{len(cell.texts) - _SENTENCES})"
    return lines


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[str], note: str) -> None:
    for place, line in enumerate(lines):
        draw.text((left, top + _LINE * place), line, _INK, ImageFont.load_default(14))
    short = note if len(note) <= 52 else f"{note[:51]}…"
    draw.text((left, top + _LINE * len(lines)), short, _QUIET, ImageFont.load_default(12))


def _jpeg(picture: Image.Image | None) -> str | None:
    if picture is None:
        return None
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return base64.b64encode(out.getvalue()).decode("ascii")
