"""The service's own application on loopback, with a network in this process in the place of Ray's replicas."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from mail.answering import Answered, Engine, Question
from mail.inference import Predictor
from pipelines.serving.app import make_app
from pipelines.serving.config import ServingConfig
from pipelines.serving.refused import Refused
from pipelines.serving.segmenter import Job, Reply, State


@dataclass
class Local:
    """One replica; a test may have another model take over, or requests refused.

    Attributes:
        refusals: what the next requests get in the place of an answer.
    """

    predictor: Predictor
    version: int = 4
    refusals: list[Refused] = field(default_factory=list)

    def promote(self, predictor: Predictor) -> None:
        self.predictor, self.version = predictor, self.version + 1

    @property
    def model(self) -> dict[str, str]:
        address, digest = "models:/mail-ris@champion", f"{self.version:064x}"
        return {
            "address": address,
            "name": "mail-ris",
            "version": f"{self.version}",
            "digest": digest,
            "label": "clean",
        }

    async def segment(self, job: Job) -> Reply:
        if self.refusals:
            raise self.refusals.pop(0)
        question = Question(job.photo, job.texts)
        (found,) = await asyncio.to_thread(Engine(self.predictor).answer, [question])
        assert isinstance(found, Answered)
        return Reply(found.size, found.answers, found.proposals if job.proposals else None, found.cached, self.model)

    async def state(self) -> State:
        return State(self.model, "")

    async def look(self) -> None:
        pass

    async def metrics(self) -> bytes:
        return b""


class Uncounted:
    """Nobody counts."""

    def request(self, route: str, seconds: float) -> None:
        pass

    def refusal(self, reason: str) -> None:
        pass

    def correction(self) -> None:
        pass


@contextmanager
def serving(config: ServingConfig, local: Local) -> Iterator[str]:
    """Address of the application."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(config, local, Uncounted()), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < until, "the application does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(30)
