"""JSON Lines: one expression a line, as JSON.

{"expr_id": "1", "image": "a.jpg", "text": "the red cup", "split": "train", "polygons": [[x, y, x, y, ...], ...]}
{"expr_id": "2", "image": "a.jpg", "text": "a camel", "split": "val", "no_target": true}
{"image": "b/c.png", "text": "left dog", "rle": {"size": [H, W], "counts": "..."}}
"""

from collections.abc import Iterator, Sequence

from mail.data.custom.described import Described
from mail.data.custom.rows import Row, of_rows
from mail.data.custom.source import Reading, SourceFile
from mail.data.typed import json_value, utf8
from mail.errors import UserError


def fits(file: SourceFile) -> bool:
    """Whether the file's first line is an object, and the file more than one; or is called so."""
    start = file.data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start.startswith(b"{"):
        return False
    try:
        return isinstance(file.json, dict) and {"image", "text"} <= file.json.keys()
    except ValueError:
        return file.name.lower().endswith((".jsonl", ".ndjson")) or _is_object(start.split(b"\n", 1)[0])


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """Raises UserError where a line is not UTF-8."""
    for file in files:
        yield from of_rows(_rows(file), file, reading, "lines cannot be used")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json_value(line), dict)
    except ValueError:
        return False


def _rows(file: SourceFile) -> Iterator[Row]:
    for number, data in enumerate(file.data.split(b"\n"), start=1):
        try:
            line = utf8(data)
        except ValueError as error:
            raise UserError(f"{file.address} cannot be read: line {number}: {error}") from None
        if not line.strip():
            continue
        try:
            yield f"line {number}", json_value(line)
        except ValueError as error:
            yield f"line {number}", error
