"""The whole service on Ray Serve, over HTTP: it answers, keeps photos, follows promotions, and ends when asked to.

One `mail-ris serve` for all tests of the file, which run in order: each goes on where the one before it ended.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from pipelines.registry.models import download
from tests.boxes import Boxes
from tests.pipelines.serving.served import NAME, Served, promote, serving_versions
from tests.registry import TEXTS

pytestmark = pytest.mark.cluster
SAID = f"serving {NAME} version 2 (clean) now"


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, boxes: Boxes, put_mlflow: Callable[[Path], None]
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    put_mlflow(folder / "mlflow.db")
    with serving_versions(folder, boxes, 2) as service:
        yield service


@pytest.fixture(autouse=True)
def _registry(served: Served) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{served.folder / 'mlflow.db'}")


def test_a_photo_is_answered_and_then_known_by_its_hash(served: Served) -> None:
    status, first = served.segment(*TEXTS[:2])
    assert status == 200, first
    assert [r["text"] for r in first["results"]] == TEXTS[:2]
    assert first["results"][0]["mask"]["size"] == [120, 160]
    assert (first["model"]["name"], first["model"]["version"], first["model"]["label"]) == (NAME, "1", "clean")
    status, again = served.segment(TEXTS[0], image={"sha256": first["image"]["sha256"]})
    assert again["results"][0]["mask"] == first["results"][0]["mask"]
    assert served.segment(TEXTS[0], image={"base64": "AAAA"})[0] == 415
    status, kept = served.ask(
        "POST", "/v1/corrections", {"image": {"sha256": first["image"]["sha256"]}, "text": "a camel", "no_target": True}
    )
    assert status == 201
    assert (served.folder / "corrections" / f"{kept['kept']}.jsonl").is_file()


def test_prometheus_reads_what_the_service_counts(served: Served) -> None:
    wanted = ("ray_mail_serve_part_seconds_sum", "ray_mail_serve_request_seconds_count", "ray_mail_serve_cache_bytes")

    def found() -> str | None:
        text = served.ask("GET", "/metrics")[1]
        counted = 'reason="no_image"' in text and 'cache="cached"' in text
        return text if counted and all(name in text for name in wanted) else None

    assert served.until(found)  # Ray sends them on every few seconds


def test_a_promotion_takes_over_without_losing_a_request(served: Served) -> None:
    answers: list[tuple[int, Any]] = []
    going_on = threading.Event()

    def load() -> None:
        while not going_on.is_set():
            answers.append(served.segment(TEXTS[len(answers) % len(TEXTS)]))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    promote("2")
    served.ready("2")
    served.until(lambda: True if SAID in served.log.read_text() else None)  # whoever started it looks now and then
    promote("1")  # and back, as a rollback does
    served.ready("1")
    going_on.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert {answer["model"]["version"] for _, answer in answers} == {"1", "2"}
    digests = {(answer["model"]["version"], answer["model"]["digest"]) for _, answer in answers}
    assert len(digests) == 2


def test_a_version_that_does_not_load_leaves_the_old_one_serving_and_is_said(served: Served) -> None:
    weights = download(served.versions[1]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    promote("2")

    def trouble() -> str | None:
        status, state = served.ask("GET", "/readyz")
        assert (status, state["model"]["version"]) == (200, "1")
        return state["trouble"]

    assert served.until(trouble).startswith("version 2 was not taken: ")
    assert served.segment(TEXTS[0])[1]["model"]["version"] == "1"
    served.until(lambda: True if "version 2 was not taken" in served.log.read_text() else None)
    promote("1")
    served.until(lambda: True if served.ready("1")["trouble"] is None else None)


def test_it_ends_when_it_is_asked_to(served: Served) -> None:
    below = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(60) == 130
    assert not psutil.wait_procs(below, timeout=10)[1]
    text = served.log.read_text()
    assert f"serving {NAME} version 1 (clean) at http://127.0.0.1:{served.port}" in text
    assert SAID in text
    assert "Traceback" not in text
    assert "raylet" not in text
    with pytest.raises(OSError, match="refused"):
        served.ask("GET", "/healthz")
