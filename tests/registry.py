"""Registered models with a whole lineage, and MLflow servers, for the tests of the registry: all of it real."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mail import lineage
from mail.model import MailForReferringSegmentation, MailProcessor, tokenizer_from_texts
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import write_proposer
from mail.proposers.maskrcnn import build_network
from mail.training.checkpoint import save_model
from pipelines.registry.client import tracking_uri
from pipelines.registry.models import Version, find_version, register_model
from pipelines.registry.run_log import start_run
from tests.boxes import Boxes, micro_config

TEXTS = ["the red box", "green one", "the blue box", "red one", "blue one", "the green box"]


def make_registered(
    folder: Path, boxes: Boxes, name: str, seed: int = 0, finds: bool = True, bundled: bool = True, **origin: Any
) -> Version:
    """A micro network with random weights, its proposer bundled, registered with the lineage of a run on `boxes`.

    Args:
        finds: False makes a network that takes every expression for one that names nothing.
        bundled: whether the model carries its proposer.
        origin: what is different in its lineage.
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer_from_texts(TEXTS)
    config = micro_config(vocab_size=len(tokenizer))
    network = MailForReferringSegmentation(config)
    torch.nn.init.constant_(network.decoder.no_target.bias, -4.0 if finds else 20.0)
    run_id = start_run(name, {"preset": "micro"}, {})
    settings = {"preset": "micro", "name": name, "proposals": "table"}
    whole = lineage.of_training(boxes.store, boxes.masks, settings, run_id, leaky=False)
    save_model(folder, network, MailProcessor.for_config(tokenizer, config), whole | origin)
    if bundled:
        make_proposer(folder / "proposer")
    return find_version(f"{name}/{register_model(folder, run_id, name)}")


def make_proposer(folder: Path) -> None:
    """A real detector that was never trained."""
    torch.manual_seed(0)
    network = NetworkConfig(min_size=64, max_size=96)
    weights = safetensors.torch.save(build_network(network).state_dict())
    selection = SelectionConfig(score_threshold=0.0, max_instances=3)
    write_proposer(folder, network=network, selection=selection, weights=weights, seen=["coco/7"], training={})


@contextlib.contextmanager
def mlflow_server(backend: str, folder: Path) -> Iterator[str]:
    """`mlflow server` on a database, serving the artifacts as well; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--workers", "2"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            until = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/health", timeout=2).read()
                    break
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < until, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


RIVAL = """
import json, pathlib, sys, time
from pipelines.registry.champions import Champions
name, version, rounds, gate = sys.argv[1:]
champions = Champions(name)
champions.current()  # connected: now wait for the others
pathlib.Path(gate, version).touch()
while not pathlib.Path(gate, "go").exists():
    time.sleep(0.01)
won = 0
for _ in range(int(rounds)):
    state = champions.current()
    history = (*state.history, state.champion) if state.champion else ()
    time.sleep(0.1)  # the gates take a while
    won += champions.append(state, version, history) is not None
print(won)
"""


def rivals(name: str, versions: list[str], rounds: int, folder: Path, repository: Path) -> list[int]:
    """Processes that promote at the same time, one a version, as often as `rounds`; how often each of them won."""
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(repository), "MLFLOW_TRACKING_URI": tracking_uri()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, name, version, str(rounds), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for version in versions
    ]
    until = time.monotonic() + 120
    while {p.name for p in folder.iterdir()} != set(versions):
        assert time.monotonic() < until
        time.sleep(0.05)
    (folder / "go").touch()
    won = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-2000:]
        won.append(int(out.splitlines()[-1]))
    return won
