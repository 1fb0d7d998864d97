"""The deployment that holds the network: batches of requests on one GPU, or on CPUs, and the alias that it follows."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mail.answering import Answer, Answered, Question
from mail.data import schema
from mail.data.images import ImageError
from mail.proposals import Proposals
from pipelines.serving.batching import Batcher
from pipelines.serving.config import ServingConfig
from pipelines.serving.following import Following
from pipelines.serving.refused import Refused, not_loaded
from pipelines.serving.telemetry import OfModel


@dataclass(frozen=True)
class Job:
    """A request on its way to a replica.

    Attributes:
        pixels: of the photo. proposals: whether they are wanted as well.
    """

    photo: bytes = field(repr=False)
    texts: tuple[str, ...]
    pixels: int
    proposals: bool = False

    @property
    def masks(self) -> int:
        """Pixels of all masks that it asks for."""
        return self.pixels * max(1, len(self.texts))


@dataclass(frozen=True)
class Reply:
    """The answer to a job.

    Attributes:
        size: (height, width) of the photo. proposals: those of the photo, if they were wanted.
        model: that gave all of it, see `following.Model`.
    """

    size: tuple[int, int]
    answers: list[Answer]
    proposals: Proposals | None
    cached: bool
    model: dict[str, Any]


@dataclass(frozen=True)
class State:
    """What a replica serves; `model` is None while nothing is loaded."""

    model: dict[str, Any] | None
    trouble: str


class Segmenter:
    """One replica. It takes part in the service once its model is loaded, or could not be."""

    def __init__(self, config: ServingConfig):
        self._telemetry = OfModel()
        self._following = Following(config, self._telemetry.part)
        self._following.look()
        self._batches: Batcher[Job, Reply | Refused] = Batcher(self._run, lambda job: job.masks, config.limits.masks)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._every = config.look_every
        self._task: asyncio.Task[None] | None = None

    async def segment(self, job: Job) -> Reply | Refused:
        """The answer; why there is none is returned, not raised, for Ray would wrap it."""
        self._begin_to_follow()
        return await self._batches(job)

    async def state(self) -> State:
        self._begin_to_follow()
        current = self._following.current
        return State(current.model.as_json() if current else None, self._following.trouble)

    async def look(self) -> None:
        """Looks at the alias now."""
        if await asyncio.to_thread(self._following.look):
            self._telemetry.swap()

    async def check_health(self) -> None:
        """Ray Serve asks every few seconds, also a replica that nobody else asks."""
        self._begin_to_follow()

    def _begin_to_follow(self) -> None:
        # not from the constructor, which runs in another thread than the replica's requests
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while self._following.is_alias or self._following.current is None:
            await asyncio.sleep(self._every)
            await self.look()
            self._tell_state()
        await asyncio.Event().wait()

    def _tell_state(self) -> None:
        current = self._following.current
        kept = current.engine.photos.currsize if current else 0
        self._telemetry.state(len(self._batches), kept, bool(self._following.trouble))

    async def _run(self, jobs: Sequence[Job]) -> Sequence[Reply | Refused]:
        loaded = self._following.current  # one model answers the whole batch, whoever takes over meanwhile
        if loaded is None:
            return [not_loaded(self._following.trouble)] * len(jobs)
        questions = [Question(job.photo, job.texts) for job in jobs]
        found = await asyncio.get_running_loop().run_in_executor(self._worker, loaded.engine.answer, questions)
        done = [each for each in found if isinstance(each, Answered)]
        cached = sum(each.cached for each in done)
        sentences = sum(len(each.answers) for each in done)
        self._telemetry.batch(cached, len(done) - cached, sentences, loaded.model.version)
        self._tell_state()
        model = loaded.model.as_json()
        return [_reply(job, each, model) for job, each in zip(jobs, found, strict=True)]


def unusable(error: ImageError) -> Refused:
    """What a client is told of a photo that cannot be used."""
    if error.status == schema.STATUS_TOO_LARGE:
        return Refused(413, "too_large", str(error))
    return Refused(415, "no_image", f"the photo cannot be used as an image: {error}")


def _reply(job: Job, found: Answered | ImageError, model: dict[str, Any]) -> Reply | Refused:
    if isinstance(found, ImageError):
        return unusable(found)
    proposals = found.proposals if job.proposals else None
    return Reply(found.size, found.answers, proposals, found.cached, model)
