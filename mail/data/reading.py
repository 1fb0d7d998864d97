"""Photos are read, decoded and hashed ahead of whoever needs them, in their order and on all cores.

Many of them in a process a core, for much of the work is Python's; few in threads, which start at once. Of a photo its
file's bytes are kept and what it is known by, never its pixels; of those that nobody asked for yet, `AHEAD_BYTES`.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from mail.data.image_keys import ImageContent
from mail.data.images import ImageError, open_image, stored_size_of, upright_rgb
from mail.data.orientation import Size
from mail.data.photos import PhotoFile, bytes_of
from mail.data.processes import processes
from mail.errors import UserError

AHEAD_BYTES = 2**26
TASK_BYTES, TASK_PHOTOS = 2**21, 32  # that one task reads
PHOTOS_A_PROCESS = 400  # the least that a process is started for: to start takes as long as some 200 photos of COCO


Source = TypeVar("Source")


@dataclass(slots=True)
class Seen:
    """What is in a photo's file: its size as `stored` and the EXIF `orientation`, or the `error` of decoding it."""

    stored: Size | None  # None: not even the header can be read
    orientation: int
    error: str | None
    content: ImageContent | None = None


def contents(photos: Mapping[str, PhotoFile]) -> dict[str, ImageContent]:
    """What the photos are known by, whatever they are called; one that cannot be decoded, by its file alone."""
    found = examined(photos.items(), len(photos))
    return {name: seen.content or ImageContent.of(data) for name, data, seen in found}


def examined(photos: Iterable[tuple[Source, PhotoFile]], total: int) -> Iterator[tuple[Source, bytes, Seen]]:
    """Each of `total` sources of a photo, with its file's bytes and what is in them, in the given order.

    Raises:
        UserError: a file cannot be read.
    """
    pending: deque[tuple[list[tuple[Source, PhotoFile]], int, Future]] = deque()
    tasks, ahead = _tasks(photos), 0
    with _pool(total) as pool:
        try:
            while True:
                while ahead < AHEAD_BYTES and (task := next(tasks, None)) is not None:
                    some, size = task
                    pending.append((some, size, pool.submit(_examine, [path for _, path in some])))
                    ahead += size
                if not pending:
                    return
                some, size, future = pending.popleft()
                ahead -= size
                for (source, _), (data, seen) in zip(some, future.result(), strict=True):
                    yield source, data, seen
        finally:
            for *_, future in pending:
                future.cancel()


def _pool(photos: int) -> AbstractContextManager[Executor]:
    cores = os.cpu_count() or 1
    count = min(cores, photos // PHOTOS_A_PROCESS)
    return processes(count) if count > 1 else ThreadPoolExecutor(min(8, cores))


def _tasks(photos: Iterable[tuple[Source, PhotoFile]]) -> Iterator[tuple[list[tuple[Source, PhotoFile]], int]]:
    """What is read at once, and its bytes."""
    some, size = list[tuple[Source, PhotoFile]](), 0
    for source, path in photos:
        some.append((source, path))
        size += bytes_of(path)
        if size >= TASK_BYTES or len(some) == TASK_PHOTOS:
            yield some, size
            some, size = [], 0
    if some:
        yield some, size


def _examine(paths: Sequence[PhotoFile]) -> list[tuple[bytes, Seen]]:
    return [_examine_one(path) for path in paths]


def _examine_one(path: PhotoFile) -> tuple[bytes, Seen]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    seen = Seen(None, 1, None)
    try:
        picture = open_image(data)
        seen.stored, seen.orientation = stored_size_of(picture, data)
        seen.content = ImageContent.of(data, upright_rgb(picture))  # which is dropped at once
    except ImageError as error:
        seen.error = str(error)
    return data, seen
