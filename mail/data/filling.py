"""Writing to a disk that may be full in the middle: what is told then, and what is left."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from mail.errors import full_disk


@contextlib.contextmanager
def begun(folder: str | os.PathLike) -> Iterator[None]:
    """A block that fills a local folder, which is gone again if it fails: it would only take space, and look whole."""
    try:
        with naming(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def naming(place: str | os.PathLike) -> Iterator[None]:
    """A block that writes to a place: if the disk is full, the error says which, whatever library met it.

    Raises:
        OSError: it is full.
    """
    try:
        yield
    except Exception as error:
        full = full_disk(error, os.fspath(place))
        if full is None:
            raise
        raise full from error
