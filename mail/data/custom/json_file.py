"""JSON: an array of expressions, or an object with one list of them under any name.

[{"image": "a.jpg", "text": "the red cup", "polygons": [[x, y, x, y, ...], ...]}, ...]
{"made_by": "me", "expressions": [{"image": "a.jpg", "text": "a camel", "no_target": true}, ...]}
"""

from collections.abc import Iterator, Sequence
from typing import Any

from mail.data.custom.described import Described
from mail.data.custom.rows import of_rows
from mail.data.custom.source import Reading, SourceFile
from mail.errors import UserError


def fits(file: SourceFile) -> bool:
    """Whether the file is an array, or an object with one list of objects that name an image."""
    if file.data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return True
    try:
        return len(_lists(file.json)) == 1
    except ValueError:
        return False


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """Raises UserError where a file is no such JSON."""
    for file in files:
        try:
            value = file.json
        except ValueError as error:
            raise UserError(f"{file.address} cannot be read: {error}") from None
        if not isinstance(value, list):
            lists = _lists(value)
            if len(lists) != 1:
                raise UserError(f"{file.address} has {len(lists)} lists of expressions, and must have one")
            value = lists[0]
        rows = [(f"entry {number}", entry) for number, entry in enumerate(value)]
        yield from of_rows(rows, file, reading, "entries cannot be used")


def _lists(value: Any) -> list[list[Any]]:
    """The lists of expressions in an object."""
    if not isinstance(value, dict):
        return []
    return [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict) and "image" in v[0]]
