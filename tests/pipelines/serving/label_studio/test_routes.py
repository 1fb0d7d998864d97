"""What Label Studio gets of the service, asked as it asks, with photos that a server like it keeps."""

import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from mail import rle
from mail.data.custom import read_expressions
from mail.data.custom.brush import decode_brush, encode_brush
from mail.inference import Predictor
from pipelines.serving.app import make_app
from pipelines.serving.config import Limits, ServingConfig, digest_of
from tests.mail.test_inference import make_model
from tests.pipelines.serving.label_studio.requests import BRUSH, predict, setup, task, webhook
from tests.pipelines.serving.test_http import Counted, Here, file
from tests.registry import make_proposer

KEY, TOKEN = "0123456789abcdef0123456789abcdef01234567", "a-token-of-the-service"
PHOTO = file(50, 71)
HERE = {"image": "data:image/png;base64," + base64.b64encode(PHOTO).decode()}
KEPT = {"image": "/data/upload/1/0123abcd-a.png"}


class Keeper(BaseHTTPRequestHandler):
    """Keeps a photo as Label Studio does: for its users, by two kinds of keys, or somewhere else."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.headers["Authorization"] not in (f"Token {KEY}", "Bearer short-lived"):
            return self.answer(302, b"", "/user/login/?next=" + self.path)
        if self.path.startswith("/tasks/5/resolve/?fileuri="):
            name = base64.urlsafe_b64decode(self.path.partition("fileuri=")[2].replace("%3D", "=")).decode()
            return self.answer(303, b"", f"https://bucket.example/{name.rpartition('/')[2]}")
        return self.answer(200 if self.path == KEPT["image"] else 404, PHOTO)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.path == "/api/token/refresh" and body == {"refresh": "a.b.c"}
        self.answer(200 if good else 401, json.dumps({"access": "short-lived"}).encode())

    def answer(self, status: int, data: bytes, to: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json" if data.startswith(b"{") else "image/png")
        if to:
            self.send_header("Location", to)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def keeper() -> Iterator[tuple[str, list[str]]]:
    """Address of the server, and what it is asked."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Keeper,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(tmp_path_factory.mktemp("run") / "model")
    make_proposer(model / "proposer")
    return model


@pytest.fixture
def ask(folder: Path, tmp_path: Path) -> Iterator[Any]:
    """Makes a client of a service with these options."""
    clients: list[TestClient] = []

    def make(**options: Any) -> TestClient:
        config = ServingConfig(model=str(folder), device="cpu", limits=Limits(bytes=50_000, pixels=10_000), **options)
        client = TestClient(make_app(config, Here(config), Counted()), base_url="http://127.0.0.1:8000")
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def test_a_project_is_connected(ask):
    client = ask()
    assert client.get("/health").json()["status"] == "UP"
    version = client.post("/setup", json=setup()).json()["model_version"]
    assert client.get("/versions").json() == {"versions": [version]}
    refused = client.post("/setup", json=setup("<View/>"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bad_request")


def test_tasks_are_answered_in_their_order_whatever_becomes_of_one(ask, folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)  # a Ray that ran here may have ended it
    tasks = [
        task(1, **HERE, text="the red box"),
        task(2, **HERE),
        task(3, **KEPT, text="the red box"),
        task(4, **HERE, text=["green one", "a blue thing on the left"]),
    ]
    client = ask()
    with caplog.at_level(logging.WARNING, "ray.serve"):
        results = client.post("/predict", json=predict(tasks)).json()["results"]
    assert "task 3 of Label Studio is not answered: Label Studio keeps the photo" in caplog.text
    assert [bool(each) for each in results] == [True, False, False, True]
    expected = Predictor.from_pretrained(folder, device="cpu").predict(PHOTO, ["the red box"])[0]
    (region,) = results[0]["result"]
    np.testing.assert_array_equal(decode_brush(region["value"]["rle"], 50, 71), expected.mask)
    assert results[0]["score"] == pytest.approx(expected.score, abs=1e-5)
    assert results[0]["model_version"] == client.post("/setup", json=setup()).json()["model_version"]
    assert len(results[3]["result"]) == 2


def test_whoever_waits_in_front_of_a_task_is_told_why_there_is_nothing(ask):
    client = ask()
    typed = client.post("/predict", json=predict([task(1, **HERE)], typed="the red box")).json()["results"]
    assert typed[0]["result"][0]["type"] == "brushlabels"
    for image, message in (
        (KEPT["image"], "Label Studio keeps the photo /data/upload/1/0123abcd-a.png: start the service with --label-"),
        ("s3://bucket/a.png", "Label Studio keeps the photo s3://bucket/a.png"),
        ("photos/a.png", "the photo photos/a.png is neither a web address nor a file of Label Studio"),
        ("https://example.org/a.png", "photos are not got from other hosts"),
    ):
        refused = client.post("/predict", json=predict([task(1, image=image)], typed="the red box"))
        assert refused.status_code == 422
        assert refused.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize("key", [KEY, "a.b.c"])
def test_photos_that_label_studio_keeps_are_got_by_its_key(ask, keeper, key):
    address, seen = keeper
    client = ask(label_studio=address, label_studio_key=key)
    results = client.post("/predict", json=predict([task(1, **KEPT, text="the red box")])).json()["results"]
    assert results[0]["result"]
    assert seen == [KEPT["image"]]
    refused = client.post("/predict", json=predict([task(5, image="s3://bucket/a.png", text="the red box")]))
    assert refused.json()["error"]["code"] == "host_not_allowed"  # to which it redirects
    assert seen[1].startswith("/tasks/5/resolve/")
    gone = client.post("/predict", json=predict([task(1, image="/data/upload/1/b.png", text="the red box")]))
    assert gone.json()["error"]["message"] == "Label Studio answers 404 for the photo /data/upload/1/b.png"


def test_without_its_key_label_studio_gives_no_photo_away(ask, keeper):
    client = ask(label_studio=keeper[0])
    refused = client.post("/predict", json=predict([task(1, **KEPT, text="the red box")]))
    assert "set LABEL_STUDIO_API_KEY" in refused.json()["error"]["message"]


def test_a_submitted_annotation_is_kept_as_prepare_custom_reads_it(ask, tmp_path):
    client, of = ask(corrections=str(tmp_path / "kept")), task(1, **HERE, text="the red box")
    mask = np.zeros((50, 71), bool)
    mask[5:20, 10:40] = True
    region = {
        "id": "q",
        "from_name": "tag",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 71,
        "original_height": 50,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["red box"]},
        "origin": "manual",
    }
    created = client.post("/webhook", json=webhook("ANNOTATION_CREATED", of, [region]))
    assert created.status_code == 201
    (kept,) = created.json()["kept"]
    row = json.loads((tmp_path / "kept" / f"{kept}.jsonl").read_text())
    assert row["text"] == "the red box"
    found = rle.decode({"size": row["rle"]["size"], "counts": row["rle"]["counts"].encode()})
    np.testing.assert_array_equal(found, mask)
    assert (tmp_path / "kept" / row["image"]).read_bytes() == PHOTO
    own = read_expressions(tmp_path / "kept")
    assert [text for thing in own.described for _, text in thing.texts] == ["the red box"]
    updated = client.post("/webhook", json=webhook("ANNOTATION_UPDATED", of, []))
    assert updated.json()["kept"] == [kept]  # in its place
    assert json.loads((tmp_path / "kept" / f"{kept}.jsonl").read_text())["no_target"] is True
    wrong = client.post("/webhook", json=webhook("ANNOTATION_CREATED", of, [region | {"original_width": 70}]))
    assert wrong.status_code == 422
    assert client.post("/webhook", json={"action": "TASKS_CREATED", "tasks": []}).json() == {"status": "ignored"}


def test_the_token_is_shown_as_label_studio_can_show_it(ask):
    client = ask(token=digest_of(TOKEN))
    for given, status in ((None, 401), (("label-studio", "wrong"), 401), (("label-studio", TOKEN), 200)):
        assert client.post("/setup", json=setup(BRUSH), auth=given).status_code == status
    bare = client.post("/webhook", json=webhook("ANNOTATION_CREATED", task(1), []))
    assert bare.status_code == 401
