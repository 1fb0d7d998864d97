"""Stands before every request: who may ask, how much may be sent, and what a page is told against script injection."""

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.config import LOOPBACK, ServingConfig
from pipelines.serving.refused import Refused

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SIGNED = "/v1/webhook"  # shows a signature instead of the token
PROTECTED = ("/v1/", "/metrics", "/setup", "/predict", "/versions", "/webhook")  # the last four are Label Studio's
log = logging.getLogger("ray.serve")


class Guard:
    """Middleware, the outermost one.

    Args:
        refused: is told of every request that is turned away here.
    """

    def __init__(self, app: ASGIApp, config: ServingConfig, refused: Callable[[Refused], None]):
        self.app, self.config, self.refused = app, config, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["path"], scope["method"], Headers(scope=scope))
            await self.app(scope, self._bounded(receive), send_with_headers)
        except Exception as error:
            if begun:
                raise
            if not isinstance(error, Refused):
                log.exception("a request failed")
                error = Refused(500, "failed", "something went wrong here; the service's log says what")
            self.refused(error)
            await answer(error, send_with_headers)

    def _check(self, path: str, method: str, headers: Headers) -> None:
        config = self.config
        if config.token is None and config.loopback and _name(headers.get("host", "")) not in LOOPBACK:
            # a page of the internet whose name was pointed at this machine
            raise Refused(
                403, "foreign_host", "without a token only requests to this machine by its own name are answered"
            )
        origin = headers.get("origin")
        if origin is not None and origin not in config.allow_origins and not _same(origin, headers.get("host", "")):
            raise Refused(403, "foreign_origin", "pages of other origins may not ask: name them with --allow-origins")
        if config.token is not None and path.startswith(PROTECTED) and path != SIGNED and method != "OPTIONS":
            digest = hashlib.sha256(_token(headers.get("authorization", ""))).hexdigest()
            if not hmac.compare_digest(digest, config.token):
                raise Refused(401, "no_token", "give the service's token: Authorization: Bearer TOKEN")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refused(400, "bad_request", "Content-Length is no number")
        if int(length) > config.limits.body:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.config.limits.body:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"a photo may have {self.config.limits.bytes:,} bytes at most")


async def answer(refused: Refused, send: Send) -> None:
    """Sends why a request is turned away."""
    body = json.dumps(refused.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _token(authorization: str) -> bytes:
    """What is shown: `Bearer TOKEN`, or `Basic` with it as the password (Label Studio's way); empty for neither."""
    kind, _, value = authorization.partition(" ")
    if kind == "Bearer":
        return value.encode("utf-8", "replace")
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2] if kind == "Basic" else b""
    except ValueError:
        return b""


def _name(host: str) -> str:
    """The host's name, of `NAME:PORT` or `[ADDRESS]:PORT`."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _same(origin: str, host: str) -> bool:
    return origin.partition("://")[2] == host
