"""A real Label Studio beside the service: connected, asked for predictions, an annotation submitted.

It is installed from the package index into an environment of its own, or LABEL_STUDIO names its command.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mail import rle
from mail.data.custom.brush import decode_brush
from mail.inference import Predictor
from pipelines.serving.config import ServingConfig, digest_of
from tests.mail.test_inference import make_model
from tests.pipelines.serving.label_studio.requests import BRUSH
from tests.pipelines.serving.local_service import Local, serving
from tests.pipelines.serving.test_http import file
from tests.registry import make_proposer

pytestmark = pytest.mark.soak
RELEASE = "label-studio==1.23.2"
KEY, TOKEN = "0123456789abcdef0123456789abcdef01234567", "a-token-of-the-service"
PHOTO = file(50, 71)


class LabelStudio:
    """A server with one user, whose key is `KEY`."""

    def __init__(self, folder: Path):
        command = os.environ.get("LABEL_STUDIO") or install(folder / "environment")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        start = [command, "start", "--no-browser", "--port", f"{port}", "--data-dir", str(folder / "data")]
        start += ["--username", "a@example.org", "--password", "a-password-of-it", "--user-token", KEY]
        # both of its guards against addresses of its own network: the backend's, and the webhook's
        own = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false", "COLLECT_ANALYTICS": "false"}
        own |= {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "LATEST_VERSION_CHECK": "false"}
        self.log = folder / "label-studio.log"
        with open(self.log, "w") as log:
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own
            self.process = subprocess.Popen(
                [*start, "--enable-legacy-api-token"], stdout=log, stderr=log, env=environment
            )

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Authorization": f"Token {KEY}", "Content-Type": kind}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from None

    def upload(self, project: int, data: bytes) -> None:
        head = 'Content-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png'
        form = f"--edge\r\n{head}\r\n\r\n".encode() + data + b"\r\n--edge--\r\n"
        self.ask("POST", f"/api/projects/{project}/import", form, "multipart/form-data; boundary=edge")


def install(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", RELEASE], check=True)
    return str(folder / "bin" / "label-studio")


def until(found: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := found():
                return answer
        except (OSError, AssertionError):
            pass
        assert time.monotonic() < end, "not in time"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    server = LabelStudio(tmp_path_factory.mktemp("label-studio"))
    try:
        until(lambda: server.ask("GET", "/api/projects/"))
        yield server
    finally:
        server.process.terminate()
        server.process.wait(60)


@pytest.mark.timeout(1500)
def test_a_project_is_connected_asked_and_its_annotations_are_kept(label_studio: LabelStudio, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    make_proposer(folder / "proposer")
    predictor = Predictor.from_pretrained(folder, device="cpu")
    config = ServingConfig(
        model=str(folder),
        token=digest_of(TOKEN),
        corrections=str(tmp_path / "corrections"),
        label_studio=label_studio.address,
        label_studio_key=KEY,
    )
    with serving(config, Local(predictor)) as address:
        alone = re.sub(r"<TextArea.*?/>", "", BRUSH)  # a photo is uploaded where tasks have nothing else
        project = label_studio.ask("POST", "/api/projects", {"title": "boxes", "label_config": alone})["id"]
        label_studio.upload(project, PHOTO)
        (task,) = until(lambda: label_studio.ask("GET", f"/api/tasks?project={project}")["tasks"])
        assert task["data"]["image"].startswith("/data/upload/")
        data = task["data"] | {"text": "the red box"}
        label_studio.ask("PATCH", f"/api/tasks/{task['id']}", {"data": data})
        label_studio.ask("PATCH", f"/api/projects/{project}", {"label_config": BRUSH})
        with_token = address.rstrip("/").replace("http://", f"http://label-studio:{TOKEN}@")
        backend = label_studio.ask(
            "POST", "/api/ml", {"project": project, "url": with_token, "title": "mail-ris", "is_interactive": True}
        )
        assert backend["model_version"] == "mail-ris 4"

        chosen = {"selectedItems": {"all": False, "included": [task["id"]]}}
        label_studio.ask("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", chosen)
        (made,) = until(lambda: label_studio.ask("GET", f"/api/predictions?task={task['id']}"))
        assert made["model_version"] == "mail-ris 4"
        expected = predictor.predict(PHOTO, "the red box")[0]
        np.testing.assert_array_equal(decode_brush(made["result"][0]["value"]["rle"], 50, 71), expected.mask)

        typed = {"type": "textarea", "from_name": "sentence", "to_name": "image", "value": {"text": ["green one"]}}
        asked = {"task": task["id"], "context": {"result": [typed]}}
        answered = label_studio.ask("POST", f"/api/ml/{backend['id']}/interactive-annotating", asked)
        expected = predictor.predict(PHOTO, "green one")[0]
        found = decode_brush(answered["data"]["result"][0]["value"]["rle"], 50, 71)
        np.testing.assert_array_equal(found, expected.mask)

        submitted = {"result": made["result"], "was_cancelled": False}
        label_studio.ask("POST", f"/api/tasks/{task['id']}/annotations", submitted)
        (path,) = until(lambda: list((tmp_path / "corrections").glob("*.jsonl")))
        row = json.loads(path.read_text())
        mask = rle.decode(row["rle"] | {"counts": row["rle"]["counts"].encode()})
        np.testing.assert_array_equal(mask, predictor.predict(PHOTO, "the red box")[0].mask)
        assert (tmp_path / "corrections" / row["image"]).read_bytes() == PHOTO
