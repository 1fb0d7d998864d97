"""The one exception that a person is meant to read, and the one fault that every library tells in words of its own.

Everything a user can get wrong (a path, a file's content, a split's name, a config value) raises `UserError`, and the
command line prints its text as a single line and exits with code 2. Any other exception is a bug of ours.
"""

import errno
import re
from collections.abc import Sequence

# of the system, of Rust's libraries (safetensors, deltalake), of torch
_FULL = re.compile(
    rf"(?:[Ee]rrno|os error) (?:{errno.ENOSPC}|{errno.EDQUOT})\b|PytorchStreamWriter failed writing file"
)


class UserError(Exception):
    """Wrong input: says what is wrong, where (file, row, id) and how to mend it.

    What a file holds may be told as it is: characters that would break the line, or steer a terminal, are written out.
    """

    def __init__(self, text: str):
        super().__init__(on_one_line(text))


def on_one_line(text: str) -> str:
    """The text with every character written out that would break the line, or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_few(names: Sequence[object], most: int = 3) -> str:
    """`a, b, c, ...`: as many of the things that are wrong as a line can name."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def full_disk(error: BaseException, place: str | None = None) -> OSError | None:
    """The error of a disk that is full, or of a quota that is used up, whoever met it; None if it is another error.

    Args:
        place: what was being written, where the error does not say it.
    """
    text = str(error)
    told = text.rstrip().rpartition("\n")[2] if "Traceback (most recent call last)" in text else text
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and not _FULL.search(told):
        return None
    return OSError(errno.ENOSPC, "no space is left on its disk", getattr(error, "filename", None) or place)
