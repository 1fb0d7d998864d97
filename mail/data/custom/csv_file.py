"""CSV, with any delimiter, a byte order mark or none: a line of names, then one expression a line.

    image,text,split,polygons
    a.jpg,the red cup,train,"[[12, 30, 80, 30, 80, 95]]"

A cell is text, but for polygons, run lengths and lists, which are JSON in it. An empty one is the same as none. Several
masks or ids of annotations are parted by `;`.
"""

import csv
import io
from collections.abc import Iterator, Sequence

from mail.data.custom.described import Described
from mail.data.custom.rows import TARGETS, Row, of_rows
from mail.data.custom.source import Reading, SourceFile
from mail.data.typed import json_value, utf8
from mail.errors import UserError

DELIMITERS = ",;\t|:~^"  # of those that give a column `image`, the one that gives most columns
LARGEST_CELL = 2**28
_FLAGS = {"true": 1, "false": 0, "yes": 1, "no": 0}


def fits(file: SourceFile) -> bool:
    """Whether the first line names a column `image`, with any delimiter."""
    return _delimiter(file) is not None


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """Raises UserError where a file is no CSV, or not UTF-8."""
    for file in files:
        yield from of_rows(_rows(file, reading.text_field), file, reading, "lines cannot be used")


def _delimiter(file: SourceFile) -> str | None:
    first = file.data.lstrip(b"\xef\xbb\xbf\r\n").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    found = {d: _names(next(csv.reader([first], delimiter=d), [])) for d in DELIMITERS}
    fitting = [d for d in DELIMITERS if "image" in found[d]]
    return max(fitting, key=lambda d: len(found[d]), default=None)


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().casefold() for cell in cells]


def _rows(file: SourceFile, text_field: str | None) -> Iterator[Row]:
    delimiter = _delimiter(file)
    if delimiter is None:
        raise UserError(f"{file.address}: its first line names no column image: it must name the columns")
    try:
        text = utf8(file.data)
    except ValueError as error:
        line = file.data[: _decodable(file.data)].count(b"\n") + 1
        raise UserError(f"{file.address} cannot be read: line {line}: {error}") from None
    csv.field_size_limit(LARGEST_CELL)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    begun = 1
    try:
        for cells in lines:
            where, begun = f"line {begun}", lines.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [text_field if text_field and name == text_field.casefold() else name for name in _names(cells)]
                if doubled := {name for name in names if name and names.count(name) > 1}:
                    raise UserError(f"{file.address}: columns have the same name: {', '.join(sorted(doubled))}")
            elif len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
                yield where, ValueError(f"it has {len(cells)} cells, the first line names {len(names)}")
            else:
                yield where, _row(dict(zip(names, cells, strict=False)))
    except csv.Error as error:
        yield f"line {begun}", ValueError(f"this is not CSV ({error}): a quotation mark may be missing")


def _decodable(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def _row(cells: dict[str, str]) -> dict[str, object] | ValueError:
    """The cells as a line of JSON Lines has them."""
    row: dict[str, object] = {}
    for name, cell in cells.items():
        if not cell.strip():
            continue
        row[name] = cell
        if name == "no_target":
            row[name] = _FLAGS.get(cell.strip().casefold(), cell)
        elif name in (*TARGETS, "box"):
            bare = cell.strip()
            if bare.startswith(("[", "{")):
                try:
                    row[name] = json_value(bare)
                except ValueError as error:
                    return ValueError(f"{name}: {error}")
            elif name in ("mask", "ann_ids") and not bare.startswith("data:"):
                row[name] = [part.strip() for part in bare.split(";") if part.strip()]
    return row
