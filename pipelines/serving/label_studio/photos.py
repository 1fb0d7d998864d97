"""Gets the photos of tasks: Label Studio sends where they are, in an address of its own making more often than not.

    data:image/jpeg;base64,...           the photo itself
    /data/upload/1/0123abcd-a.jpg        a file that was uploaded to it, or lies where it reads local files
    s3://bucket/a.jpg, gs://, ...        in a storage that it was given: it redirects to where that is, or passes it on
    https://host/a.jpg                   of an allowed host, as the service gets other photos

What Label Studio keeps is got from the one address that the service was started with, by the API key of a user there.
"""

import base64
import re

import aiohttp
from yarl import URL

from mail import addresses
from mail.errors import on_one_line
from pipelines.serving.config import ServingConfig
from pipelines.serving.fetching import SECONDS, fetch, read_bounded
from pipelines.serving.messages import ImageSource
from pipelines.serving.photos import Photo, Photos
from pipelines.serving.refused import Refused

_KEPT = re.compile(r"/?(?:data|storage-data|upload)/")
_IN_A_CLOUD = re.compile(r"(?:s3|gs|azure-blob)://.")
_KEY = "set LABEL_STUDIO_API_KEY to the access token of a user there"


class TaskPhotos:
    """The photos of tasks.

    Args:
        photos: of the service, which know the limits.
    """

    def __init__(self, photos: Photos, config: ServingConfig):
        self.photos, self.config = photos, config
        self._bearer: str | None = None  # a short-lived token that stands for a personal access token

    async def of(self, given: str, task: int | None) -> Photo:
        """The photo that a task names. Raises Refused where it cannot be got, or used."""
        if given.startswith("data:"):
            return await self.photos.of(ImageSource(base64=given))
        home = self.config.label_studio
        if addresses.is_web(given):
            if home is None or URL(given).origin() != URL(home).origin():
                return await self.photos.of(ImageSource(url=given))
            return await self.photos.take(await self._get(URL(given)))
        kept, cloud = _KEPT.match(given), _IN_A_CLOUD.match(given)
        if not kept and not cloud:
            raise Refused(
                422,
                "unreachable_photo",
                f"the photo {_shown(given)} is neither a web address nor a file of Label Studio",
            )
        if home is None:
            raise Refused(
                422,
                "unreachable_photo",
                f"Label Studio keeps the photo {_shown(given)}: start the service with --label-studio http://HOST:8080",
            )
        if kept:
            path = given if given.startswith("/") else f"/{given}"
            return await self.photos.take(
                await self._get(_below(home, f"/data{path}" if path.startswith("/upload/") else path))
            )
        if task is None:
            raise Refused(422, "unreachable_photo", f"the photo {_shown(given)} is got by its task, which has no id")
        name = base64.urlsafe_b64encode(given.encode()).decode()
        return await self.photos.take(await self._get(_below(home, f"/tasks/{task}/resolve/").with_query(fileuri=name)))

    async def _get(self, url: URL) -> bytes:
        """A file of Label Studio's, or where it redirects to, if that is an allowed host."""
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
                for attempt in range(2):
                    headers = await self._authorization(session, anew=attempt > 0)
                    async with session.get(url, headers=headers, allow_redirects=False) as response:
                        if response.status == 401 and attempt == 0 and self._bearer is not None:
                            continue
                        if 300 <= response.status < 400:
                            target = url.join(URL(response.headers.get("Location", "")))
                            break
                        if response.status in (401, 403):
                            raise Refused(
                                422, "unreachable_photo", f"Label Studio does not give the photo away: {_KEY}"
                            )
                        if response.status != 200:
                            what = f"Label Studio answers {response.status} for the photo {_shown(url.path)}"
                            raise Refused(422, "unreachable_photo", what)
                        return await read_bounded(response, self.config.limits.bytes)
        except (aiohttp.ClientError, OSError, ValueError, KeyError):
            home = self.config.label_studio
            raise Refused(422, "unreachable_photo", f"Label Studio does not answer at {home}") from None
        if target.path.startswith("/user/login"):
            raise Refused(422, "unreachable_photo", f"Label Studio does not give the photo away: {_KEY}")
        return await fetch(str(target), self.config.allow_hosts, self.config.limits.bytes)

    async def _authorization(self, session: aiohttp.ClientSession, anew: bool) -> dict[str, str]:
        key = self.config.label_studio_key
        if key is None:
            return {}
        if key.count(".") != 2:
            return {"Authorization": f"Token {key}"}
        if anew or self._bearer is None:  # a personal access token is a JWT that is only good for another one
            refresh = _below(str(self.config.label_studio), "/api/token/refresh")
            async with session.post(refresh, json={"refresh": key}, allow_redirects=False) as response:
                if response.status != 200:
                    raise Refused(422, "unreachable_photo", f"Label Studio does not know the key: {_KEY}")
                self._bearer = str((await response.json())["access"])
        return {"Authorization": f"Bearer {self._bearer}"}


def _below(home: str, path: str) -> URL:
    """An address below Label Studio's own, which may itself be a folder of a host."""
    return URL(home.rstrip("/") + path)


def _shown(given: str) -> str:
    return on_one_line(addresses.without_secrets(given))[:120]
