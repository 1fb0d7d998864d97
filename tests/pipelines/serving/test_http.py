"""What a client gets over HTTP, from a real model in this process: answers, limits, who may ask, corrections."""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ThreadedResolver
from PIL import Image
from starlette.testclient import TestClient

from mail import rle
from mail.data.store import DataStore
from mail.inference import Predictor
from pipelines.cli import parse
from pipelines.serving.app import make_app
from pipelines.serving.config import Limits, ServingConfig, digest_of
from pipelines.serving.fetching import fetch, is_public
from pipelines.serving.refused import Refused
from pipelines.serving.segmenter import Job, Reply, Segmenter, State
from tests.boxes import Boxes
from tests.mail.test_inference import TEXTS

TOKEN = "0123456789abcdef-token"


class Here:
    """The service without Ray: one replica, in this process."""

    def __init__(self, config: ServingConfig):
        self.replica = Segmenter(config)
        self.looks = 0

    async def segment(self, job: Job) -> Reply:
        found = await self.replica.segment(job)
        if isinstance(found, Refused):
            raise found
        return found

    async def state(self) -> State:
        return await self.replica.state()

    async def look(self) -> None:
        self.looks += 1

    async def metrics(self) -> bytes:
        return b"# none\n"


class Counted:
    """What the application tells of itself."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.kept = 0

    def request(self, route: str, seconds: float) -> None:
        assert seconds > 0

    def refusal(self, reason: str) -> None:
        self.refusals[reason] += 1

    def correction(self) -> None:
        self.kept += 1


@pytest.fixture(scope="module")
def corrections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture(scope="module")
def counted() -> Counted:
    return Counted()


@pytest.fixture(scope="module")
def config(folder: Path, corrections: Path, boxes: Boxes) -> ServingConfig:
    limits = Limits(bytes=50_000, pixels=10_000, sentences=4, characters=60, masks=30_000)
    return ServingConfig(
        model=str(folder),
        device="cpu",
        limits=limits,
        corrections=str(corrections),
        examples=boxes.store_uri,
        webhook_secret="a secret of both",
    )


@pytest.fixture(scope="module")
def client(config: ServingConfig, counted: Counted) -> Iterator[TestClient]:
    with TestClient(make_app(config, Here(config), counted), base_url="http://127.0.0.1:8000") as client:
        yield client


def file(height: int = 50, width: int = 71, seed: int = 0, kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def body(photo: bytes, *texts: str, **more: Any) -> dict[str, Any]:
    prompts = [{"type": "text", "text": text} for text in texts]
    return {"image": {"base64": base64.b64encode(photo).decode()}, "prompts": prompts, **more}


def decoded(mask: dict[str, Any]) -> np.ndarray:
    return rle.decode({"size": mask["size"], "counts": mask["counts"].encode()})


def test_the_answers_are_the_predictors(client: TestClient, folder: Path) -> None:
    photo = file()
    answer = client.post("/v1/segment", json=body(photo, *TEXTS, proposals=True)).json()
    assert answer["image"] == {"sha256": hashlib.sha256(photo).hexdigest(), "width": 71, "height": 50}
    assert answer["model"]["label"] == "unknown"
    assert len(answer["model"]["digest"]) == 64
    for text, result, expected in zip(
        TEXTS, answer["results"], Predictor.from_pretrained(folder).predict(photo, TEXTS), strict=True
    ):
        assert result["text"] == text
        assert np.array_equal(decoded(result["mask"]), expected.mask)
        assert result["score"] == pytest.approx(expected.score, abs=1e-5)
        rows, columns = np.nonzero(expected.mask)
        left, top = int(columns.min()), int(rows.min())
        assert result["box"] == [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
    assert [p["index"] for p in answer["proposals"]] == list(range(len(answer["proposals"])))
    assert decoded(answer["proposals"][0]["mask"]).shape == (50, 71)


def test_a_form_a_hash_and_other_services_spelling_mean_the_same(client: TestClient) -> None:
    photo = file(seed=1)
    first = client.post("/v1/segment", json=body(photo, TEXTS[0])).json()
    form = client.post("/v1/segment", files={"image": photo}, data={"text": TEXTS[0]}).json()
    named = {"image": {"sha256": first["image"]["sha256"]}, "prompts": [{"text": TEXTS[0]}]}
    other = {"image": {"type": "base64", "value": base64.b64encode(photo).decode()}, "prompts": [{"text": TEXTS[0]}]}
    assert (
        first == form == client.post("/v1/segment", json=named).json() == client.post("/v1/segment", json=other).json()
    )


def test_a_mask_comes_as_run_lengths_polygons_or_png(client: TestClient) -> None:
    photo = file()
    lengths, polygons, png = (
        client.post("/v1/segment", json=body(photo, TEXTS[0], format=form)).json()["results"][0]["mask"]
        for form in ("rle", "polygons", "png")
    )
    mask = decoded(lengths)
    picture = Image.open(io.BytesIO(base64.b64decode(png.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(picture), mask)
    assert all(len(part) >= 6 and len(part) % 2 == 0 for part in polygons)


def test_a_turned_photo_is_answered_as_a_viewer_shows_it(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = client.post("/v1/segment", json=body(file(30, 40, kind="JPEG", exif=exif), TEXTS[0])).json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (30, 40)
    assert answer["results"][0]["mask"]["size"] == [40, 30]


JSON = {"Content-Type": "application/json"}


def wrong_requests() -> Iterator[tuple[int, str, dict[str, Any]]]:
    yield 400, "bad_request", {"content": b'{"image": ', "headers": JSON}
    yield 400, "bad_request", {"content": json.dumps(body(file(), "a \ud800")), "headers": JSON}  # half a character
    yield 400, "no_base64", {"json": {"image": {"base64": "%%%"}, "prompts": [{"text": "a"}]}}
    yield 400, "bad_request", {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}}
    yield 404, "unknown_image", {"json": {"image": {"sha256": "0" * 64}, "prompts": [{"text": "a"}]}}
    yield 413, "too_large", {"json": body(file(200, 200), "a")}  # bytes
    yield 413, "too_large", {"json": body(file(101, 100, kind="JPEG"), "a")}  # pixels
    yield 413, "too_large", {"json": body(file(99, 100, kind="JPEG"), "a", "b", "c", "d")}  # pixels x sentences
    yield 413, "too_large", {"content": b"x" * 200_000, "headers": JSON}
    yield 413, "too_large", {"content": (b"x" * 50_000 for _ in range(5)), "headers": JSON}  # without its length
    yield 415, "no_image", {"json": body(b"no image at all", "a")}
    yield 415, "no_image", {"json": body(file()[:3000], "a")}
    yield 415, "wrong_type", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}
    yield 422, "bad_request", {"json": {"image": {"base64": "AAAA"}, "prompts": []}}
    yield 422, "bad_request", {"json": {"image": {}, "prompts": [{"text": "a"}]}}
    yield 422, "bad_request", {"json": body(file(), "a", format="gif")}
    yield 422, "bad_request", {"json": [1]}
    yield 422, "bad_request", {"data": {"text": "a"}, "files": {"other": b"x"}}
    yield 422, "too_many_sentences", {"json": body(file(), *"abcde")}
    yield 422, "bad_text", {"json": body(file(), "a" * 61)}
    yield 422, "bad_text", {"json": body(file(), "  ")}
    yield 422, "host_not_allowed", {"json": {"image": {"url": "https://example.org/a.jpg"}, "prompts": [{"text": "a"}]}}


@pytest.mark.parametrize(("status", "code", "request_"), list(wrong_requests()))
def test_what_is_wrong_is_said_in_one_form(
    client: TestClient, counted: Counted, status: int, code: str, request_: dict[str, Any]
) -> None:
    before = counted.refusals[code]
    answer = client.post("/v1/segment", **request_)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert "\n" not in answer.json()["error"]["message"]
    assert counted.refusals[code] == before + 1
    assert client.post("/v1/segment", json=body(file(), TEXTS[0])).status_code == 200


def test_a_page_is_told_to_run_nothing_else_and_other_origins_may_not_ask(client: TestClient) -> None:
    for answer in (client.get("/healthz"), client.get("/nowhere"), client.post("/v1/segment", content=b"")):
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    assert client.get("/v1/model", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/model", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200
    assert (
        client.get("/v1/model", headers={"Host": "evil.example"}).status_code == 403
    )  # a name pointed at this machine


def test_the_page_comes_with_all_its_files_and_without_a_token(config: ServingConfig) -> None:
    closed = ServingConfig(model=config.model, token=digest_of(TOKEN), loopback=False)
    with TestClient(make_app(closed, Here(closed), Counted()), base_url="http://a.example") as client:
        page = client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        files = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        kinds = {name: client.get(f"/{name}").headers["content-type"].partition(";")[0] for name in files}
        assert kinds == {"page/page.css": "text/css", "page/page.js": "text/javascript"}
        assert client.get("/page/../app.py").status_code == 404
        assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_the_token_is_asked_for_below_v1(config: ServingConfig) -> None:
    closed = ServingConfig(
        model=config.model, token=digest_of(TOKEN), loopback=False, allow_origins=("https://a.example",)
    )
    with TestClient(make_app(closed, Here(closed), Counted()), base_url="http://a.example") as client:
        assert client.get("/healthz").status_code == 200
        for header in (
            {},
            {"Authorization": TOKEN},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer "},
        ):
            refused = client.get("/v1/model", headers=header)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        allowed = {"Authorization": f"Bearer {TOKEN}", "Origin": "https://a.example"}
        answer = client.get("/v1/model", headers=allowed)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_what_the_service_is_and_offers(client: TestClient, folder: Path, boxes: Boxes) -> None:
    found = client.get("/v1/model").json()
    assert found["limits"] == {"bytes": 50_000, "pixels": 10_000, "sentences": 4, "characters": 60}
    assert found["corrections"] is True
    assert found["model"]["address"] == folder.parent.name, "where it lies is nobody's business"
    assert len(found["examples"]) == 7  # the photos that are held out
    photo = client.get(found["examples"][0]["url"])
    assert photo.headers["content-type"] == "image/jpeg"
    asked = client.post("/v1/segment", files={"image": photo.content}, data={"text": found["examples"][0]["text"]})
    assert asked.status_code == 200
    assert client.get("/v1/examples/none").status_code == 404
    described = client.get("/v1/openapi.json").json()["paths"]
    assert set(described["/v1/segment"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
    }
    assert {"200", "400", "413", "429", "503"} <= set(described["/v1/segment"]["post"]["responses"])


def test_nothing_is_answered_while_nothing_is_loaded(tmp_path: Path) -> None:
    empty = ServingConfig(model=str(tmp_path))
    with TestClient(make_app(empty, Here(empty), Counted()), base_url="http://localhost") as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "no config.json" in ready.json()["trouble"]
        refused = client.post("/v1/segment", json=body(file(), "a"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_a_webhook_has_a_look_taken_if_it_is_signed_just_now(client: TestClient) -> None:
    def post(secret: str, sent: float, content: bytes = b'{"entity": "model_version_alias"}') -> int:
        headers = {"X-MLflow-Delivery-Id": "1", "X-MLflow-Timestamp": str(int(sent))}
        signed = f"1.{int(sent)}.".encode() + content
        digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
        headers["X-MLflow-Signature"] = f"v1,{digest}"
        return client.post("/v1/webhook", content=content, headers=headers).status_code

    assert post("a secret of both", time.time()) == 202
    assert post("another secret", time.time()) == 401
    assert post("a secret of both", time.time() - 3600) == 401
    assert client.post("/v1/webhook", content=b"{}").status_code == 401


def test_ten_corrections_are_what_prepare_custom_reads(client: TestClient, corrections: Path, tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    for number in range(4):
        photo = file(seed=10 + number, kind="JPEG")
        asked = client.post("/v1/segment", json=body(photo, TEXTS[0], proposals=True)).json()
        image, found = {"sha256": asked["image"]["sha256"]}, asked["proposals"]
        union = {"text": f"both of {number}", "proposals": [0, len(found) - 1]}
        expected[union["text"]] = decoded(found[0]["mask"]) | decoded(found[-1]["mask"])
        drawn = {"text": f"drawn {number}", "mask": asked["results"][0]["mask"]}
        expected[drawn["text"]] = decoded(drawn["mask"])
        nothing = {"text": f"a camel in {number} – ünïcode", "no_target": True}
        expected[nothing["text"]] = np.zeros((50, 71), bool)
        for correction in (union, drawn, nothing):
            kept = client.post("/v1/corrections", json={"image": image, **correction})
            assert kept.status_code == 201, kept.text
            assert (corrections / f"{kept.json()['kept']}.jsonl").is_file()
    parse(["prepare", "custom", "--expressions", str(corrections), "--out", str(tmp_path / "store")]).execute()
    rows = DataStore(str(tmp_path / "store")).expressions().to_pylist()
    assert {row["text"] for row in rows} == set(expected)
    for row in rows:
        assert np.array_equal(rle.decode(row["target"]), expected[row["text"]]), row["text"]
        assert row["no_target"] == (not expected[row["text"]].any())


def test_a_correction_of_a_correction_replaces_it_and_a_wrong_one_is_refused(
    client: TestClient, corrections: Path
) -> None:
    image = {"base64": base64.b64encode(file(seed=30)).decode()}
    ids = [
        client.post("/v1/corrections", json={"image": image, "text": "the cup", **meant}).json()["kept"]
        for meant in ({"proposals": [0]}, {"no_target": True})
    ]
    assert ids[0] == ids[1]
    assert json.loads((corrections / f"{ids[0]}.jsonl").read_text())["no_target"] is True
    wrong: list[dict[str, Any]] = [
        {"proposals": [99]},
        {"proposals": [-1]},
        {"proposals": [0], "no_target": True},
        {"mask": {"size": [50, 71], "counts": "0"}},
        {"mask": {"size": [10, 10], "counts": "T3"}},
        {},
    ]
    for meant in wrong:
        assert client.post("/v1/corrections", json={"image": image, "text": "the cup", **meant}).status_code == 422
    model = client.get("/v1/model").json()["model"]["digest"]
    for digest, status in ((model, 201), ("0" * 64, 412)):
        chosen = {"text": "the plate", "proposals": [0], "model": digest}
        assert client.post("/v1/corrections", json={"image": image, **chosen}).status_code == status
    assert json.loads((corrections / f"{ids[0]}.jsonl").read_text())["no_target"] is True


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),  # where clouds keep credentials
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


class Photos(BaseHTTPRequestHandler):
    """A host with a photo, a large one, and redirects."""

    def do_GET(self) -> None:
        large, away = self.path == "/large", {"/moved": "/photo", "/away": "http://other.example/photo"}.get(self.path)
        self.send_response(302 if away else 200)
        if away:
            self.send_header("Location", away)
        self.end_headers()
        self.wfile.write(b"x" * 5000 if large else b"" if away else b"a photo")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_photos_are_got_from_allowed_public_hosts_alone() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://localhost:{server.server_port}"

    def got(path: str, private: bool = False, base: str = here) -> bytes | str:
        # the test's host is a private one: the system's resolver stands for one that finds it on the internet
        async def ask() -> bytes:
            hosts = ("localhost", "127.0.0.1")
            return await fetch(base + path, hosts, 1000, None if private else ThreadedResolver())

        try:
            return asyncio.run(ask())
        except Refused as refused:
            return refused.code

    try:
        assert got("/photo") == b"a photo"
        assert got("/moved") == b"a photo"
        assert got("/away") == "host_not_allowed"
        assert got("/large") == "too_large"
        assert got("/photo", private=True) == "not_fetched"
        assert got("/photo", base=f"http://127.0.0.1:{server.server_port}") == "host_not_allowed"
        assert got("/photo", base="file://localhost") == "bad_url"
        assert got("/photo", base="http://user@localhost") == "bad_url"
        assert got("/photo", base="http://other.example") == "host_not_allowed"
    finally:
        server.shutdown()
        server.server_close()
