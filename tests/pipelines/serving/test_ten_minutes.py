"""Ten minutes of sixteen clients, through what happens to a service: no good request fails, none is answered wrongly.

Meanwhile five promotions, one that is rolled back, a replica killed by SIGKILL, a damaged version promoted by hand, and
one request in a hundred that is no good.
"""

import base64
import http.client
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from PIL import Image

from pipelines.registry.models import download
from tests.boxes import Boxes
from tests.pipelines.serving.served import promote, serving_versions
from tests.registry import TEXTS

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(1500)]
SECONDS = 600.0
CLIENTS = 16
BAD: list[Any] = [
    {"image": {"base64": "AAAA"}, "prompts": [{"text": "a camel"}]},
    {"image": {"sha256": "0" * 64}, "prompts": [{"text": "a camel"}]},
    {"image": {}, "prompts": []},
    {"prompts": [{"text": 7}]},
    [],
]
Score = tuple[float, float]


class Client:
    """Asks two sentences about one photo after the other, until it is told to stop.

    Attributes:
        statuses: how often each was answered to a good request, and to a bad one. again: how often it asked again.
        scores: of each version, photo and sentence, all that were answered. digests: of each version.
        wrong: what must not be.
    """

    def __init__(self, port: int, photos: list[str], number: int, stop: threading.Event):
        self.port, self.photos, self.number, self.stop = port, photos, number, stop
        self.statuses, self.bad, self.again = Counter[int](), Counter[int](), 0
        self.scores: dict[tuple[str, int, str], set[Score]] = {}
        self.digests: set[tuple[str, str]] = set()
        self.wrong: list[str] = []

    def run(self) -> None:
        turn = self.number
        while not self.stop.is_set():
            turn += 1
            if turn % 100 == 0:
                status, _ = self.post(BAD[turn // 100 % len(BAD)])
                self.bad[status] += 1
                continue
            which, texts = turn % len(self.photos), [TEXTS[turn % len(TEXTS)], TEXTS[(turn + 1) % len(TEXTS)]]
            body = {"image": {"base64": self.photos[which]}, "prompts": [{"text": text} for text in texts]}
            status, answer = self.post(body)
            if status != 200:  # a client may ask once more
                self.again += 1
                status, answer = self.post(body)
            self.statuses[status] += 1
            if status != 200:
                self.wrong.append(f"{status}: {answer}")
                continue
            version = answer["model"]["version"]
            self.digests.add((version, answer["model"]["digest"]))
            for result in answer["results"]:
                score = (round(result["score"], 3), round(result["no_target"], 3))
                self.scores.setdefault((version, which, result["text"]), set()).add(score)

    def post(self, body: Any) -> tuple[int, Any]:
        """Status 0: the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/v1/segment", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()


def photos(count: int) -> list[str]:
    """Pictures of like size that are not alike, as base64."""
    found = []
    for number in range(count):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(buffer, "PNG")
        found.append(base64.b64encode(buffer.getvalue()).decode())
    return found


def memory(process: psutil.Process) -> float:
    """MiB that the service and all below it have to themselves."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 2**20


def replicas(process: psutil.Process) -> list[psutil.Process]:
    """Those that have the network."""
    return [p for p in process.children(recursive=True) if "segmenter" in "".join(p.cmdline()[:1])]


def damage(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1000])


def test_ten_minutes_of_load_lose_and_mix_up_nothing(tmp_path: Path, boxes: Boxes) -> None:
    with serving_versions(tmp_path, boxes, 4) as service:
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        damage(download(service.versions[3]) / "model.safetensors")
        stop, pictures, process = threading.Event(), photos(8), psutil.Process(service.process.pid)
        clients = [Client(service.port, pictures, number * 7, stop) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        sizes = []

        def at(share: float) -> None:
            time.sleep(max(0.0, begun + share * SECONDS - time.monotonic()))
            sizes.append(round(memory(process)))

        try:
            for turn, version in enumerate(("2", "3", "1", "2", "3")):
                at(0.1 * (turn + 1))
                promote(version)
                service.ready(version)
            at(0.6)
            promote("2")  # back: what 3 does is not liked
            service.ready("2")
            at(0.7)
            (killed,) = replicas(process)
            os.kill(killed.pid, signal.SIGKILL)
            service.ready("2")
            assert [replica.pid for replica in replicas(process)] != [killed.pid]
            at(0.8)
            promote("4")
            service.until(lambda: service.ask("GET", "/readyz")[1]["trouble"] or None)
            at(0.9)
            promote("1")
            service.ready("1")
            at(1.0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        seconds = time.monotonic() - begun
        good, bad = sum((c.statuses for c in clients), Counter()), sum((c.bad for c in clients), Counter())
        again = sum(c.again for c in clients)
        print(f"{good.total()} good requests in {seconds:.0f} s {dict(good)}, {again} asked again; bad {dict(bad)}")
        print(f"memory in MiB at each tenth: {sizes}")
        assert not [line for client in clients for line in client.wrong]
        assert again <= 2 * CLIENTS  # those of the killed replica
        assert set(bad) <= {400, 404, 415, 422}
        assert bad.total() >= good.total() / 200
        assert {v for c in clients for v, _ in c.digests} == {"1", "2", "3"}
        assert len(set().union(*(c.digests for c in clients))) == 3
        scores: dict[tuple[str, int, str], set[Score]] = {}
        for client in clients:
            for key, found in client.scores.items():
                scores.setdefault(key, set()).update(found)
        apart = {key: max(np.ptp(list(found), axis=0)) for key, found in scores.items()}
        assert max(apart.values()) <= 0.002, max(apart.items(), key=lambda item: item[1])  # of one version: the same
        of = {version: [min(scores[version, 0, text]) for text in TEXTS] for version in "123"}
        assert np.abs(np.subtract(of["1"], of["2"])).max() > 0.01  # and of two versions not
        assert np.abs(np.subtract(of["2"], of["3"])).max() > 0.01
        assert sizes[-1] < 1.15 * sizes[2]
