"""The photo of a request: its bytes, wherever they come from, looked at before anything is decoded."""

import asyncio
import hashlib
from dataclasses import dataclass, field

from cachetools import LRUCache

from mail.data.images import ImageError, stored_size
from pipelines.serving.config import ServingConfig
from pipelines.serving.fetching import fetch
from pipelines.serving.messages import ImageSource, from_base64
from pipelines.serving.refused import Refused
from pipelines.serving.segmenter import unusable


@dataclass(frozen=True)
class Photo:
    """A file that says it is a photo of allowed size.

    Attributes:
        size: (height, width), after EXIF rotation.
    """

    data: bytes = field(repr=False)
    sha256: str
    size: tuple[int, int]

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


class Photos:
    """The photos of requests; those that were asked about last may be named by their sha256."""

    def __init__(self, config: ServingConfig):
        self.config = config
        self._known: LRUCache[str, Photo] = LRUCache(config.cache_bytes, getsizeof=lambda photo: len(photo.data))

    async def of(self, source: ImageSource) -> Photo:
        """Raises Refused where there is none, or it cannot be used."""
        if source.sha256 is not None:
            return self._named(source.sha256)
        if source.url is not None:
            hosts = self.config.allow_hosts
            if not hosts:
                raise Refused(422, "host_not_allowed", "photos are not got from other hosts: send the file itself")
            return await self.take(await fetch(source.url, hosts, self.config.limits.bytes))
        return await self.take(await asyncio.to_thread(from_base64, source.base64 or ""))

    async def take(self, data: bytes) -> Photo:
        """The photo of a file's bytes, known by its sha256 from now on."""
        photo = await asyncio.to_thread(self._looked_at, data)
        if len(data) <= self._known.maxsize:
            self._known[photo.sha256] = photo
        return photo

    def _named(self, sha256: str) -> Photo:
        if (photo := self._known.get(sha256)) is None:
            raise Refused(404, "unknown_image", "this photo is not in the cache any more: send the file again")
        return photo

    def _looked_at(self, data: bytes) -> Photo:
        limits = self.config.limits
        if len(data) > limits.bytes:
            raise Refused(413, "too_large", f"a photo may have {limits.bytes:,} bytes at most")
        try:
            (height, width), orientation = stored_size(data, limits.pixels)
        except ImageError as error:
            raise unusable(error) from None
        except Exception as error:  # whatever a reader of headers raises on a broken one
            raise Refused(415, "no_image", "the photo cannot be used as an image: its header is broken") from error
        size = (width, height) if orientation >= 5 else (height, width)  # EXIF: turned by a quarter
        return Photo(data, hashlib.sha256(data).hexdigest(), size)
