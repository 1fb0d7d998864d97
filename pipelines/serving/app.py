"""The service as a FastAPI application: the routes behind a guard, every error in one form, the page if it is there."""

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from mail import __version__
from pipelines.serving.config import ServingConfig
from pipelines.serving.guard import Guard
from pipelines.serving.label_studio import routes as label_studio
from pipelines.serving.refused import Refused
from pipelines.serving.routes import Routes, Service, Told, as_refused

PAGE = Path(__file__).with_name("page")


def make_app(config: ServingConfig, service: Service, told: Told) -> FastAPI:
    """The application. What it raises is answered in one form, without a stack trace."""
    app = FastAPI(
        title="mail-ris",
        version=__version__,
        description="Referring image segmentation: a photo and sentences in, the mask of what each names out.",
        docs_url=None,  # its pages would be loaded from other hosts
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    routes = Routes(config, service, told)
    routes.add_to(app)
    app.include_router(label_studio.router(config, service, routes.photos, routes.corrections, told))

    async def refused(_: Request, error: Exception) -> Response:
        found = error if isinstance(error, Refused) else as_refused(error)
        told.refusal(found.code)
        return JSONResponse(found.body(), found.status, found.headers)

    for kind in (Refused, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, refused)
    app.add_middleware(Guard, config=config, refused=lambda found: told.refusal(found.code))
    if config.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    if (PAGE / "index.html").is_file():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")
        app.add_api_route("/", lambda: FileResponse(PAGE / "index.html"), include_in_schema=False)
    return app
