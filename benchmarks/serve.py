"""The service against `mlflow models serve`, the same model, photos and sentences: `python -m benchmarks.serve`.

    python -m benchmarks.serve [--demo runs/demo] [--clients 1 4 16] [--seconds 20] [--sentences 4]

Clients go through the demo's photos, each from another one on, and ask their sentences one after the other, a request
each, as somebody at a page does. Prints requests a second and the latency of each number of clients, and what HTTP and
Serve add to `Predictor.predict` for one client. Claims: with 16 clients at least 3 times the requests a second of
MLflow's server, with one client a median that is not slower, a photo's second sentence at least 5 times faster than its
first, and less than 15 ms over the predictor. The last line is JSON.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mail.addresses import sqlite_uri
from mail.data.store import DataStore
from mail.inference import Predictor
from pipelines.registry.models import CHAMPION, MODEL_NAME, SCHEME, resolve_model

PATIENCE = 240.0
PHOTOS = 200
Asked = tuple[bytes, list[str]]


def photos_of(store: DataStore, sentences: int) -> list[Asked]:
    """Photos with as many sentences each: a photo's own, again and again where it has fewer."""
    texts: dict[str, list[str]] = {}
    for row in store.expressions(columns=["image_id", "text"]).to_pylist():
        texts.setdefault(row["image_id"], []).append(row["text"])
    found: list[Asked] = []
    for batch in store.images(["image_id", "image"]):
        for row in batch.to_pylist():
            own = texts.get(row["image_id"])
            if own and len(found) < PHOTOS:
                found.append((row["image"], (own * sentences)[:sentences]))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], port: int, ready: str) -> Iterator[None]:
    """A server, from when it is ready until the block ends."""
    with tempfile.TemporaryFile() as log:
        # MLflow looks for uvicorn on the path
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"PATH": path}
        )
        try:
            end = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", ready)
                    if connection.getresponse().status == 200:
                        break
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} did not start: {log.read()[-2000:].decode()}")
                time.sleep(0.5)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def of_service(photo: str, text: str) -> tuple[str, dict[str, Any]]:
    return "/v1/segment", {"image": {"base64": photo}, "prompts": [{"text": text}]}


def of_mlflow(photo: str, text: str) -> tuple[str, dict[str, Any]]:
    return "/invocations", {"dataframe_records": [{"image": photo, "text": text}]}


def load(port: int, request: Any, photos: list[Asked], clients: int, seconds: float) -> dict[str, float]:
    """Requests a second, latencies in ms, and how many times a photo's first sentence takes longer than its others."""
    encoded = [(base64.b64encode(photo).decode(), texts) for photo, texts in photos]
    times: list[float] = []
    apart: tuple[list[float], list[float]] = [], []  # of first sentences, of others
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        begin = number * len(encoded) // clients
        for photo, texts in [*encoded[begin:], *encoded[:begin]] * 1000:
            for place, text in enumerate(texts):
                if time.monotonic() > until:
                    return
                path, body = request(photo, text)
                begun = time.perf_counter()
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                times.append(time.perf_counter() - begun)
                apart[place > 0].append(times[-1])
                if answer.status != 200:
                    raise SystemExit(f"{path} answers {answer.status}: {content[:300]!r}")

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    cuts = statistics.quantiles(times, n=100)
    found = {"requests_a_second": len(times) / taken, "p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    shown = {key: round(value if key == "requests_a_second" else 1000 * value, 1) for key, value in found.items()}
    return shown | {"first_over_others": round(statistics.median(apart[0]) / statistics.median(apart[1]), 2)}


def overhead(port: int, model: Path, photos: list[Asked]) -> float:
    """ms that one client waits longer for a photo that nobody asked about before than `predict` takes, median."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))  # as the replica has
    predictor, over = Predictor.from_pretrained(model, device="cpu"), []
    predictor.predict(*photos[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for photo, texts in photos:
        path, body = of_service(base64.b64encode(photo).decode(), texts[0])
        begun = time.perf_counter()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        connection.getresponse().read()
        between = time.perf_counter()
        predictor.predict(photo, texts[0])
        over.append(between - begun - (time.perf_counter() - between))
    return round(1000 * statistics.median(over), 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--sentences", type=int, default=4)
    options = parser.parse_args()
    os.environ.setdefault("MLFLOW_TRACKING_URI", sqlite_uri(options.demo / "mlflow.db"))
    address = f"{SCHEME}{MODEL_NAME}@{CHAMPION}"
    model = resolve_model(address)
    photos = photos_of(DataStore(str(options.demo / "store")), options.sentences)
    fresh, photos = photos[:30], photos[30:]
    port = free_port()
    own = [sys.executable, "-m", "pipelines", "serve", "--model", address, "--port", str(port)]
    theirs = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", address, "--env-manager", "local"]
    result: dict[str, Any] = {"benchmark": "serve", "sentences": options.sentences}
    for name, command, ready, request in (
        ("service", own, "/readyz", of_service),
        ("mlflow", [*theirs, "--host", "127.0.0.1", "--port", str(port)], "/ping", of_mlflow),
    ):
        with server(command, port, ready):
            load(port, request, photos[:5], 1, 3)  # what is loaded and compiled at the first call
            if name == "service":
                result["overhead_ms"] = overhead(port, model, fresh)
                print(f"over Predictor.predict: {result['overhead_ms']} ms")
            result[name] = {}
            for clients in options.clients:
                result[name][clients] = found = load(port, request, photos, clients, options.seconds)
                print(f"{name}, {clients} clients: {found}", flush=True)
    most = max(options.clients)
    ratio = result["service"][most]["requests_a_second"] / result["mlflow"][most]["requests_a_second"]
    print(json.dumps(result | {"ratio": round(ratio, 2), "device": f"CPU, {os.cpu_count()} cores"}))


if __name__ == "__main__":
    main()
