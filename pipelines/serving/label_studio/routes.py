"""The routes that Label Studio calls: `/setup`, `/health`, `/predict`, `/versions` and `/webhook`.

Label Studio adds its webhook by itself, without any header: a service with a token has to be added with the token in
its address (http://label-studio:TOKEN@HOST:8000), which both its requests and its webhook then show as Basic.
"""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from mail.data.typed import json_value
from pipelines.serving.config import ServingConfig
from pipelines.serving.corrections import Corrections
from pipelines.serving.label_studio import annotations
from pipelines.serving.label_studio.answering import prediction
from pipelines.serving.label_studio.asking import Asked, Asking
from pipelines.serving.label_studio.labelling import Labelling
from pipelines.serving.label_studio.photos import TaskPhotos
from pipelines.serving.photos import Photos
from pipelines.serving.refused import Refused, not_loaded
from pipelines.serving.routes import Service, Told, checked_job, checked_sentence, json_body

MOST_TASKS = 1000
AT_ONCE = 4  # tasks of a request whose photos are got and asked about together
log = logging.getLogger("ray.serve")


def router(
    config: ServingConfig, service: Service, photos: Photos, corrections: Corrections | None, told: Told
) -> APIRouter:
    """The routes, answered by what answers those of the service itself."""
    own = _Routes(config, service, TaskPhotos(photos, config), corrections, told)
    routes = APIRouter(include_in_schema=False)
    routes.get("/health", response_model=None)(own.health)
    routes.get("/versions", response_model=None)(own.versions)
    routes.post("/setup", response_model=None)(own.setup)
    routes.post("/predict", response_model=None)(own.predict)
    routes.post("/webhook", response_model=None)(own.webhook)
    return routes


class _Routes:
    def __init__(
        self, config: ServingConfig, service: Service, photos: TaskPhotos, corrections: Corrections | None, told: Told
    ):
        self.config, self.service, self.photos, self.corrections, self.told = config, service, photos, corrections, told

    async def health(self) -> JSONResponse:
        """Whether this process answers."""
        return JSONResponse({"status": "UP", "model_class": "mail-ris"})

    async def versions(self) -> JSONResponse:
        """The version that answers now: which one that is the registry decides, not Label Studio."""
        return JSONResponse({"versions": [await self._version()]})

    async def setup(self, request: Request) -> JSONResponse:
        """Whether a project's label config will do, and which version answers."""
        body = await _json(request)
        schema = body.get("schema") if isinstance(body, dict) else None
        _understood(Labelling.read, schema)
        return JSONResponse({"model_version": await self._version()})

    async def predict(self, request: Request) -> JSONResponse:
        """A prediction for each task; none for a task that cannot be answered, unless somebody waits in front of it."""
        asking = _understood(Asking.read, await _json(request))
        if len(asking.tasks) > MOST_TASKS:
            raise Refused(422, "too_many_tasks", f"at most {MOST_TASKS} tasks a request")
        few = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(self._answered(asking, asked, few) for asked in asking.tasks))
        refusals = [each for each in found if isinstance(each, Refused)]
        if refusals and (asking.interactive or len(refusals) == len(found)):
            raise refusals[0]
        for asked, each in zip(asking.tasks, found, strict=True):
            if isinstance(each, Refused):
                log.warning("task %s of Label Studio is not answered: %s", asked.task, each.message)
        return JSONResponse({"results": [[] if isinstance(each, Refused) else each for each in found]})

    async def webhook(self, request: Request) -> JSONResponse:
        """Keeps a submitted annotation as a correction."""
        annotated = _understood(annotations.read, await _json(request))
        if annotated is None or self.corrections is None:
            return JSONResponse({"status": "ignored"})
        photo = await self.photos.of(annotated.photo, annotated.task)
        # a photo that cannot be decoded is of no use to whoever trains on it
        reply = await self.service.segment(checked_job(photo, (), self.config.limits))
        meant = []
        for thing in annotated.things:
            mask = await asyncio.to_thread(_understood, annotations.mask_of, thing, reply.size)
            meant += [(checked_sentence(text, self.config.limits), mask) for _, text in thing.texts]
        kept = []
        for text, mask in meant:
            kept.append(await asyncio.to_thread(self.corrections.keep, photo.data, text, mask, reply.model))
            self.told.correction()
        return JSONResponse({"status": "ok", "kept": kept}, 201)

    async def _answered(self, asking: Asking, asked: Asked, few: asyncio.Semaphore) -> Any:
        """The prediction of a task, [] where it has no sentence yet; why there is none is returned, not raised."""
        async with few:
            try:
                if asked.trouble:
                    raise Refused(422, "bad_task", asked.trouble)
                if not asked.texts:
                    return {"result": []} if asking.interactive else []
                photo = await self.photos.of(asked.photo, asked.task)
                reply = await self.service.segment(checked_job(photo, asked.texts, self.config.limits))
            except Refused as refused:
                return refused
            version = _version_of(reply.model)
            return await asyncio.to_thread(prediction, asking.labelling, reply.answers, version)

    async def _version(self) -> str:
        state = await self.service.state()
        if state.model is None:
            raise not_loaded(state.trouble)
        return _version_of(state.model)


def _version_of(model: dict[str, Any]) -> str:
    return f"{model['name']} {model['version'] or model['digest'][:12]}"


async def _json(request: Request) -> Any:
    try:
        return json_value(await json_body(request))
    except ValueError:
        raise Refused(400, "bad_request", "the body is no JSON") from None


def _understood(read: Any, *given: Any) -> Any:
    """What a reader makes of something of Label Studio's; Refused where it makes nothing of it."""
    try:
        return read(*given)
    except ValueError as error:
        raise Refused(422, "bad_request", str(error)) from None
