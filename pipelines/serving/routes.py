"""The routes of the service: what each takes, what it checks before a replica is asked, and what it answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from mail import rle
from mail.data.segmentation import checked_mask
from mail.errors import UserError, on_one_line
from mail.model import check_text
from pipelines.serving.config import Limits, ServingConfig
from pipelines.serving.corrections import Corrections
from pipelines.serving.examples import Examples
from pipelines.serving.messages import (
    FORM,
    Capabilities,
    CorrectionRequest,
    ErrorResponse,
    Kept,
    ModelInfo,
    SegmentRequest,
    SegmentResponse,
    response_of,
)
from pipelines.serving.photos import Photo, Photos
from pipelines.serving.refused import Refused, not_loaded
from pipelines.serving.segmenter import Job, Reply, State
from pipelines.serving.webhook import check_signature

CODES = {400: "bad_request", 404: "not_found", 405: "wrong_method"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "Malformed JSON, form or base64",
        401: "The token is missing or wrong",
        404: "No such route, example, or photo in the cache",
        409: "This service keeps no corrections",
        412: "Another model answers now than the one whose proposals were chosen",
        413: "The photo has too many bytes or pixels, or too many for so many sentences",
        415: "No image, or another kind of body than JSON and forms",
        422: "A field is missing or wrong, there are too many sentences, or one is too long",
        429: "Too many wait already; `Retry-After` says when to try again",
        503: "No model is loaded, or no replica answers",
    }.items()
}
M = TypeVar("M", bound=BaseModel)


class Service(Protocol):
    """What stands behind the routes. Each raises Refused where nobody can answer."""

    async def segment(self, job: Job) -> Reply: ...

    async def state(self) -> State: ...

    async def look(self) -> None:
        """Has every replica look at the alias now."""

    async def metrics(self) -> bytes:
        """Prometheus' text."""


class Told(Protocol):
    """Who counts, see `telemetry.OfHttp`."""

    def request(self, route: str, seconds: float) -> None: ...

    def refusal(self, reason: str) -> None: ...

    def correction(self) -> None: ...


class Routes:
    """The routes of the service, around whatever answers them."""

    def __init__(self, config: ServingConfig, service: Service, told: Told):
        self.config, self.service, self.told = config, service, told
        self.photos = Photos(config)
        self.examples = Examples(config.examples)
        self.corrections = Corrections(config.corrections) if config.corrections else None

    def add_to(self, app: FastAPI) -> None:
        body = {"application/json": SegmentRequest.model_json_schema(), "multipart/form-data": FORM}
        segment = {"requestBody": {"required": True, "content": {kind: {"schema": s} for kind, s in body.items()}}}
        app.post("/v1/segment", response_model=None, responses=_answers(SegmentResponse), openapi_extra=segment)(
            self._timed("/v1/segment", self.segment)
        )
        wanted = {"application/json": {"schema": CorrectionRequest.model_json_schema()}}
        correction = {"requestBody": {"required": True, "content": wanted}}
        app.post("/v1/corrections", response_model=None, responses=_answers(Kept, 201), openapi_extra=correction)(
            self._timed("/v1/corrections", self.correct)
        )
        app.get("/v1/model", response_model=None, responses=_answers(Capabilities))(self.model)
        app.get("/v1/examples/{name}", response_model=None)(self.example)
        app.post("/v1/webhook", response_model=None, status_code=202)(self.webhook)
        app.get("/healthz", response_model=None)(self.healthz)
        app.get("/readyz", response_model=None)(self.readyz)
        app.get("/metrics", response_model=None)(self.metrics)

    def _timed(
        self, route: str, handle: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def timed(request: Request) -> Response:
            begun = time.perf_counter()
            response = await handle(request)
            self.told.request(route, time.perf_counter() - begun)
            return response

        timed.__name__ = handle.__name__
        timed.__doc__ = handle.__doc__
        return timed

    async def segment(self, request: Request) -> Response:
        """The mask of what each sentence names in a photo."""
        asked, photo = await self._asked(request)
        job = checked_job(photo, [prompt.text for prompt in asked.prompts], self.config.limits, asked.proposals)
        reply = await self.service.segment(job)
        return JSONResponse(await asyncio.to_thread(response_of, reply, photo.sha256, asked.format))

    async def correct(self, request: Request) -> Response:
        """Keeps what a sentence means, as training data."""
        if self.corrections is None:
            raise Refused(409, "no_corrections", "this service keeps no corrections: start it with --corrections PLACE")
        asked = _parsed(CorrectionRequest, await json_body(request))
        text, photo = checked_sentence(asked.text, self.config.limits), await self.photos.of(asked.image)
        wanted, mask = asked.proposals, None
        # a photo that cannot be decoded is of no use to whoever trains on it
        reply = await self.service.segment(Job(photo.data, (), photo.pixels, wanted is not None))
        if wanted is not None and asked.model not in (None, reply.model["digest"]):
            raise Refused(412, "other_model", "another model answers now, with proposals of its own: choose again")
        if wanted is not None:
            found = reply.proposals.rles if reply.proposals else []
            if wrong := [n for n in wanted if not 0 <= n < len(found)]:
                raise Refused(
                    422, "no_such_proposal", f"the photo has {len(found)} proposals, none of number {wrong[0]}"
                )
            mask = rle.union([found[n] for n in wanted], reply.size)
        elif asked.mask is not None:
            try:
                mask = checked_mask(asked.mask.model_dump(), *reply.size)
            except ValueError as error:
                raise Refused(422, "bad_mask", f"the mask cannot be used: {error}") from None
        if mask is not None and rle.area(mask) == 0:
            raise Refused(422, "bad_mask", "the mask is empty: say no_target where the sentence names nothing")
        kept = await asyncio.to_thread(self.corrections.keep, photo.data, text, mask, reply.model)
        self.told.correction()
        return JSONResponse({"kept": kept}, 201)

    async def model(self) -> Response:
        """The model that answers, and what may be asked of it."""
        state, limits = await self.service.state(), self.config.limits
        if state.model is None:
            raise not_loaded(state.trouble)
        named = ("bytes", "pixels", "sentences", "characters")
        return JSONResponse(
            {
                "model": ModelInfo(**state.model).model_dump(),
                "limits": {name: getattr(limits, name) for name in named},
                "corrections": self.corrections is not None,
                "examples": self.examples.listed(),
            }
        )

    async def example(self, name: str) -> Response:
        """A photo that a visitor may try."""
        found = self.examples.photo(name)
        if found is None:
            raise Refused(404, "not_found", "there is no such example")
        return Response(found[0], media_type=found[1])

    async def webhook(self, request: Request) -> Response:
        """MLflow's webhook: something in the registry has changed."""
        check_signature(self.config.webhook_secret, request.headers, await request.body())
        await self.service.look()
        return JSONResponse({"looked": True}, 202)

    async def healthz(self) -> Response:
        """Whether this process answers."""
        return JSONResponse({"alive": True})

    async def readyz(self) -> Response:
        """Whether a model is loaded, which, and why it is not the one that the address names, if so."""
        try:
            state = await self.service.state()
        except Refused as refused:
            return JSONResponse({"ready": False, "model": None, "trouble": refused.message}, 503)
        ready = state.model is not None
        found = {"ready": ready, "model": state.model, "trouble": state.trouble or None}
        return JSONResponse(found, 200 if ready else 503)

    async def metrics(self) -> Response:
        """What Prometheus reads: Ray's series of this node, the service's own among them."""
        return Response(await self.service.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _asked(self, request: Request) -> tuple[SegmentRequest, Photo]:
        if _kind(request) != "multipart/form-data":
            asked = _parsed(SegmentRequest, await json_body(request))
            return asked, await self.photos.of(asked.image)
        limits = self.config.limits
        async with request.form(max_files=1, max_fields=limits.sentences + 8, max_part_size=2**20) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise Refused(422, "bad_request", "image: the photo's file is missing")
            photo = await self.photos.take(await image.read())
            texts = [{"text": text} for text in form.getlist("text") if isinstance(text, str)]
            fields = {key: form[key] for key in ("format", "proposals") if key in form}
        source = {"sha256": photo.sha256}
        try:
            return SegmentRequest.model_validate({"image": source, "prompts": texts, **fields}), photo
        except ValidationError as error:
            raise as_refused(error) from None


def checked_sentence(text: str, limits: Limits) -> str:
    """The sentence, if it is one. Raises Refused otherwise."""
    if not text.strip():
        raise Refused(422, "bad_text", "a sentence is blank: say what to segment")
    if len(text) > limits.characters:
        raise Refused(422, "bad_text", f"a sentence may have {limits.characters} characters at most")
    try:
        return check_text(text)
    except UserError as error:
        raise Refused(422, "bad_text", str(error)) from None


def checked_job(photo: Photo, texts: Sequence[str], limits: Limits, proposals: bool = False) -> Job:
    """The job of sentences about a photo. Raises Refused where it would cost more than a request may."""
    sentences = tuple(checked_sentence(text, limits) for text in texts)
    if len(sentences) > limits.sentences:
        raise Refused(422, "too_many_sentences", f"at most {limits.sentences} sentences a request")
    job = Job(photo.data, sentences, photo.pixels, proposals)
    if job.masks > limits.masks:
        most = max(1, limits.masks // photo.pixels)
        raise Refused(413, "too_large", f"for a photo of so many pixels at most {most} sentences a request")
    return job


def _answers(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model}} | ERRORS


def _kind(request: Request) -> str:
    """What the body says it is."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request) -> bytes:
    """The body of a request that says it is JSON."""
    if _kind(request) != "application/json":
        raise Refused(415, "wrong_type", "send application/json, or a form with the file as `image`")
    return await request.body()


def _parsed(kind: type[M], body: bytes) -> M:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise as_refused(error) from None


def as_refused(error: Exception) -> Refused:
    """What is told of an error of FastAPI, Starlette or pydantic."""
    if isinstance(error, RequestValidationError | ValidationError):
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return Refused(400, "bad_request", "the body is no JSON")
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        return Refused(422, "bad_request", on_one_line(f"{where}: {first['msg']}")[:300])
    if isinstance(error, HTTPException):
        code = CODES.get(error.status_code, "bad_request")
        return Refused(error.status_code, code, on_one_line(str(error.detail))[:300])
    raise error
