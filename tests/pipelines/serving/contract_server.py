"""The service's HTTP contract on Python's own server, with a real `Predictor` behind it: for tests of the page."""

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from mail import rle
from mail.inference import Predictor, chosen_proposals, load_image
from mail.proposals import Proposals

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript", "css": "text/css"}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass
class Contract:
    """What the server answers from, and what it was asked: a test changes the one and reads the other."""

    predictor: Predictor
    digest: str = "first"
    token: str | None = None
    keeps: bool = True
    examples: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    limits: dict[str, int] = field(
        default_factory=lambda: {"bytes": 2_000_000, "pixels": 4_000_000, "sentences": 16, "characters": 200}
    )
    refusals: list[Refused] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    photos: dict[str, bytes] = field(default_factory=dict)

    def model(self) -> dict[str, Any]:
        address = "models:/mail-ris@champion"
        return {"address": address, "name": "mail-ris", "version": "4", "digest": self.digest, "label": "clean"}

    def about(self) -> dict[str, Any]:
        examples = [{"name": n, "url": f"/v1/examples/{n}", "text": text} for n, (_, text) in self.examples.items()]
        return {"model": self.model(), "limits": self.limits, "corrections": self.keeps, "examples": examples}

    def found(self, photo: bytes) -> tuple[np.ndarray, Proposals]:
        pixels = load_image(photo)
        assert self.predictor.proposer is not None
        return pixels, self.predictor.proposer.propose([pixels])[0]

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, body))
        if self.refusals:
            raise self.refusals.pop(0)
        given = body["image"]
        data = base64.b64decode(given["base64"]) if "base64" in given else self.photos.get(given["sha256"])
        if data is None:
            raise Refused(404, "this photo is no longer in the cache: send its bytes")
        digest = hashlib.sha256(data).hexdigest()
        self.photos[digest] = data
        if path == "/v1/corrections":
            return 201, {"kept": f"expr-{len(self.asked)}"}
        pixels, proposals = self.found(data)
        texts = [prompt["text"] for prompt in body["prompts"]]
        answers = self.predictor.predict(pixels, texts, proposals)
        results = []
        for text, answer in zip(texts, answers, strict=True):
            mask = rle.encode(answer.mask)
            empty = not answer.mask.any()
            results.append(
                {
                    "text": text,
                    "mask": plain(mask),
                    "box": None if empty else rle.bbox(mask),
                    "score": answer.score,
                    "no_target": answer.no_target_probability,
                    "empty": empty,
                    "proposals": chosen_proposals(answer),
                }
            )
        height, width = pixels.shape[:2]
        answered = {"image": {"sha256": digest, "width": width, "height": height}, "results": results}
        if body.get("proposals"):
            answered["proposals"] = [
                {"index": n, "score": float(score), "box": rle.bbox(mask), "mask": plain(mask)}
                for n, (score, mask) in enumerate(zip(proposals.scores, proposals.rles, strict=True))
            ]
        return 200, {**answered, "model": self.model()}

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]


def plain(mask: rle.RLE) -> dict[str, Any]:
    return {"size": [int(v) for v in mask["size"]], "counts": mask["counts"].decode()}


@contextmanager
def serving(contract: Contract) -> Iterator[str]:
    """Address of a server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/":
                self.file("index.html")
            elif name := re.fullmatch(r"/page/([a-z]+\.(?:js|css))", self.path):
                self.file(name[1])
            elif self.admitted() and self.path == "/v1/model":
                self.answer(200, contract.about())
            elif self.path.startswith("/v1/examples/") and self.admitted():
                self.write(200, "image/jpeg", contract.examples[self.path.rpartition("/")[2]][0])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.admitted():
                return
            try:
                self.answer(*contract.post(self.path, body))
            except Refused as refused:
                error = {"error": {"code": "refused", "message": str(refused)}}
                self.answer(refused.status, error, refused.headers)

        def admitted(self) -> bool:
            if contract.token and self.headers["Authorization"] != f"Bearer {contract.token}":
                self.answer(401, {"error": {"code": "unauthorized", "message": "no token, or a wrong one"}})
                return False
            return True

        def file(self, name: str) -> None:
            data = (resources.files("pipelines") / "serving" / "page" / name).read_bytes()
            self.write(200, TYPES[name.rpartition(".")[2]], data)

        def answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            self.write(status, "application/json", json.dumps(body).encode(), headers)

        def write(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            fixed = {"Content-Type": kind, "Content-Length": str(len(data)), "Content-Security-Policy": CSP}
            for name, value in {**fixed, "X-Content-Type-Options": "nosniff", **(headers or {})}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def jpeg_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
