"""What a value in a file that somebody else wrote may be, and what it then is: the rule that all readers share.

Exporters write numbers as text ("0", "12.5"), and whole numbers as fractions (7.0). Those are read as the numbers that
they are; nothing is rounded, guessed, or turned into text. A null is the same as a value that is not there: callers
treat both alike. Errors are `ValueError`s whose text can follow the name of the file and of the entry.
"""

import json
import math
import re
from typing import Any

from mail import json_text

_NUMBER = re.compile(r"[+-]?\d{1,400}(\.\d{1,400})?([eE][+-]?\d{1,4})?", re.ASCII)
_LARGEST = 2**63 - 1  # of an id in Parquet and numpy
_EXACT = 2**53  # whole numbers beyond this have no float of their own


def given(entry: dict[str, Any], key: str) -> Any:
    """A value that a format demands; ValueError where it is absent or null."""
    if (value := entry.get(key)) is None:
        raise ValueError(f"it lacks {key!r}")
    return value


def whole_number(value: Any, what: str) -> int:
    """An id, a size or a count: 7, "7" or 7.0; ValueError for 0.5, NaN, true, null and everything else."""
    if type(value) is not int:
        found = _parsed(value)
        if isinstance(found, float):
            found = int(found) if found.is_integer() and abs(found) <= _EXACT else None
        if found is None:
            raise ValueError(f"{what} must be a whole number, not {shown(value)}")
        value = found
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{what} must be a whole number of at most 64 bits, not {shown(value)}")
    return value


def number(value: Any, what: str) -> float:
    """A measure: 12.5, "12.5" or 12; ValueError for NaN, infinities, true, null and everything else."""
    found = value if type(value) in (int, float) else _parsed(value)
    try:
        if found is not None and math.isfinite(found):
            return float(found)
    except OverflowError:
        pass
    raise ValueError(f"{what} must be a finite number, not {shown(value)}")


def flag(value: Any, what: str) -> bool:
    """A yes or no: 0, 1, "0", "1", true or false; absent is no. ValueError for everything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    found = value if type(value) in (int, float) else _parsed(value)
    if found not in (0, 1):
        raise ValueError(f"{what} must be 0 or 1, not {shown(value)}")
    return bool(found)


def text(value: Any, what: str) -> str:
    """A text that can be written as UTF-8; ValueError for other types, and for half a character (a lone surrogate)."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text, not {shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise ValueError(
                f"{what} has half a character ({half}) at place {error.start + 1}, as in a text that was cut or is not "
                "UTF-8: write the whole character, or leave it out"
            ) from None
    return value


def utf8(data: bytes) -> str:
    """Bytes of a file as text, without a byte order mark; ValueError says where they are not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{data[error.start]:02x} at place {error.start + 1} is not UTF-8: save the file as UTF-8"
        ) from None


def json_value(data: bytes | str) -> Any:
    """The JSON value that a file or a line holds; ValueError says what is wrong with it."""
    try:
        return json_text.parse(data if isinstance(data, str) else utf8(data))
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON ({error})") from None


def shown(value: Any) -> str:
    """A value as a message can show it: as JSON would, and not too long."""
    try:
        written = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def _parsed(value: Any) -> int | float | None:
    """The number that a float or a text is, None if it is none."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value) if set(value) & set(".eE") else int(value)
    return value if type(value) is float else None
