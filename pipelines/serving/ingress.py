"""The deployment that answers HTTP: it decodes requests, asks a replica of the network, and encodes what that says."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from pipelines.serving.app import make_app
from pipelines.serving.config import ServingConfig
from pipelines.serving.refused import Refused, not_loaded
from pipelines.serving.segmenter import Job, Reply, State
from pipelines.serving.telemetry import OfHttp

SECONDS_TO_SAY = 5.0  # for what takes no time, unless no replica is there
Result = TypeVar("Result")


@serve.ingress()
class Ingress:
    """Ray Serve runs the application that `__serve_build_asgi_app__` gives."""

    def __init__(self, config: ServingConfig, segmenter: DeploymentHandle):
        self.config, self.segmenter = config, segmenter

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.config, OnRay(self.segmenter, self.config.limits.seconds), OfHttp())


class OnRay:
    """`routes.Service` by the replicas of a deployment."""

    def __init__(self, segmenter: DeploymentHandle, seconds: float):
        self._segmenter, self._seconds = segmenter, seconds

    async def segment(self, job: Job) -> Reply:
        found: Reply | Refused
        try:
            found = await self._asked(self._segmenter.segment.remote(job), self._seconds)
        except RayActorError:  # the replica died over it, or before: another one gives the same answer
            try:
                found = await self._asked(self._segmenter.segment.remote(job), self._seconds)
            except RayActorError:
                raise Refused(503, "no_replica", "the replica that was asked is gone", 1) from None
        if isinstance(found, Refused):
            raise found
        return found

    async def state(self) -> State:
        try:
            return await self._asked(self._segmenter.state.remote(), SECONDS_TO_SAY)
        except RayActorError:
            raise not_loaded("its replica is gone, another one starts") from None

    async def look(self) -> None:
        await self._segmenter.broadcast("look").results_async()

    async def metrics(self) -> bytes:
        here = ray.get_runtime_context().get_node_id()
        node = next(node for node in ray.nodes() if node["NodeID"] == here)
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        timeout = aiohttp.ClientTimeout(total=SECONDS_TO_SAY)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(address) as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError):
            raise Refused(503, "no_metrics", "Ray's metrics of this node do not answer", 5) from None

    async def _asked(self, response: Awaitable[Result], seconds: float) -> Result:
        try:
            return await asyncio.wait_for(response, seconds)
        except BackPressureError:
            raise Refused(429, "busy", "too many requests wait already: try again", 1) from None
        except TimeoutError:
            raise Refused(503, "too_slow", f"no replica answered within {seconds:g} s", 5) from None
