"""A `mail-ris serve` in a process of its own, of a registry with a few versions, and what a client asks of it."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipelines.registry.models import CHAMPION, Version
from pipelines.registry.smoke_test import photo
from tests.boxes import Boxes
from tests.registry import make_registered

NAME = "served"
PATIENCE = 240.0


class Served:
    """A running `mail-ris serve` of the champion of `NAME`, whose versions are there already."""

    def __init__(self, folder: Path, versions: list[Version]):
        self.folder, self.versions = folder, versions
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "pipelines", "serve", "--model", f"models:/{NAME}@{CHAMPION}"]
        command += ["--port", str(self.port), "--look-every", "0.5", "--corrections", str(folder / "corrections")]
        self.log = folder / "serve.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content) if "json" in answer.headers["content-type"] else content.decode()

    def segment(self, *texts: str, image: dict[str, str] | None = None) -> tuple[int, Any]:
        image = image or {"base64": base64.b64encode(photo()).decode()}
        return self.ask("POST", "/v1/segment", {"image": image, "prompts": [{"text": text} for text in texts]})

    def until(self, found: Callable[[], Any]) -> Any:
        """What `found` gives once it gives anything."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if (value := found()) is not None:
                    return value
            except OSError:
                pass  # nobody listens yet
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def ready(self, version: str) -> Any:
        """What `/readyz` says once this version serves."""

        def found() -> Any:
            status, state = self.ask("GET", "/readyz")
            return state if status == 200 and state["model"]["version"] == version else None

        return self.until(found)


def promote(version: str) -> None:
    mlflow.MlflowClient().set_registered_model_alias(NAME, CHAMPION, version)


@contextmanager
def serving_versions(folder: Path, boxes: Boxes, count: int) -> Iterator[Served]:
    """A service of version 1 of so many, each an untrained network of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        versions = [make_registered(folder / str(seed), boxes, NAME, seed=seed) for seed in range(count)]
        promote("1")
        service = Served(folder, versions)
        try:
            service.ready("1")
            yield service
        finally:
            if service.process.poll() is None:
                os.killpg(service.process.pid, signal.SIGKILL)
            service.process.wait()
