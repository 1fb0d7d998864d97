"""JSON that somebody else wrote: every way in which it can be wrong is a ValueError."""

import json
import os
from typing import Any

from mail.errors import UserError


def parse(text: str | bytes) -> Any:
    """What the JSON says.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or larger than the memory.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except MemoryError:
        raise ValueError(f"its {len(text)} bytes need more memory than there is") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The same for what can only be an object.

    Raises:
        ValueError: it is something else.
    """
    found = parse(text)
    if not isinstance(found, dict):
        raise ValueError(f"it is no JSON object but a {type(found).__name__}")
    return found


def read_record(where: str | os.PathLike, text: str | bytes, *keys: str) -> dict[str, Any]:
    """What an earlier start of a stage noted in a file, to go on from there.

    Args:
        where: the file. keys: that the record has.

    Raises:
        UserError: it is damaged, or another program's.
    """
    try:
        found = parse_object(text)
        if lacking := [k for k in keys if k not in found]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except ValueError as error:
        raise UserError(f"{where} is no record to go on from ({error}): delete it to begin anew") from None
    return found
