"""precompute and masks: exactly one row an image, whatever is wrong with it, however often a run is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import verify
from mail.data.store import DataStore, DataStoreWriter
from mail.errors import UserError
from mail.proposers.folder import NetworkConfig, SelectionConfig, write_proposer
from mail.proposers.maskrcnn import build_network
from pipelines.masks import MasksGc, MasksRetry, MasksStatus, MasksVerify
from pipelines.precompute import Precompute

TRUNCATED = 3


@pytest.fixture(scope="module")
def proposer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real detector that was never trained: it finds things everywhere."""
    path = tmp_path_factory.mktemp("proposer")
    torch.manual_seed(0)
    network = NetworkConfig(min_size=64, max_size=96)
    weights = safetensors.torch.save(build_network(network).state_dict())
    selection = SelectionConfig(score_threshold=0.0, max_instances=3)
    write_proposer(path, network=network, selection=selection, weights=weights, image_ids=["coco/7"], training={})
    return str(path)


def write_store(folder: Path, numbers: range, split: str = "val") -> DataStore:
    writer = DataStoreWriter(folder, "noise")
    for number in numbers:
        size = (40 + number % 5, 60)
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        broken = number == TRUNCATED
        data = buffer.getvalue()[:-400] if broken else buffer.getvalue()
        height, width = (0, 0) if broken else size
        image_id = f"coco/{number:04d}"
        writer.add_image(image_id=image_id, file_name=f"{number}.jpg", image=data, height=height, width=width)
        writer.add_expression(
            expr_id=f"noise/{number}",
            ref_id=f"noise/{number}",
            image_id=image_id,
            split=split,
            text="this",
            target={"size": [40, 60], "counts": b"PV1"},
            no_target=True,
            ann_ids=[],
            category="",
        )
    return writer.finish()


def rows(masks: Path, proposer_id: str | None = None) -> Counter[str]:
    return Counter(r["image_id"] for r in MaskTable(masks).snapshot(proposer_id).rows(["image_id"]))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("pipelines.ray_session.connect", refuse)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_rerunning_computes_only_what_is_new(
    tmp_path: Path, proposer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path / "store", range(20))
    stage = Precompute(data=store.uri, proposer=proposer, masks=str(tmp_path / "masks"))
    assert stage.plan()["pending"] == 20
    first = stage.run()
    assert first["statuses"] == {"ok": 19, "decode_error": 1}
    assert set(rows(tmp_path / "masks").values()) == {1}
    (bad,) = MaskTable(tmp_path / "masks").snapshot().read([f"coco/{TRUNCATED:04d}"]).to_pylist()
    assert bad["status"] == "decode_error"
    assert bad["error"]

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.ray_session.connect", lambda: pytest.fail("Ray was started for nothing"))
        again = stage.run()
    assert (again["images"], again["digest"]) == (0, first["digest"])
    assert "all 20 images have masks" in capsys.readouterr().out

    more = write_store(tmp_path / "more", range(15, 30))
    added = Precompute(data=more.uri, proposer=proposer, masks=str(tmp_path / "masks")).run()
    assert added["images"] == 10
    assert rows(tmp_path / "masks") == Counter(f"coco/{n:04d}" for n in range(30))

    MasksVerify(masks=str(tmp_path / "masks"), data=store.uri).run()
    report = tmp_path / "status.json"
    MasksStatus(masks=str(tmp_path / "masks"), data=more.uri, against=more.uri, json=str(report)).run()
    content = json.loads(report.read_text())
    assert content["pending"] == 0
    assert content["proposers"][first["proposer_id"]]["statuses"] == {"decode_error": 1, "ok": 29}

    retried = MasksRetry(data=store.uri, proposer=proposer, masks=str(tmp_path / "masks")).run()
    assert retried["images"] == 1
    assert rows(tmp_path / "masks") == Counter(f"coco/{n:04d}" for n in range(30))
    assert MasksGc(masks=str(tmp_path / "masks")).run() == []


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_other_thresholds_and_too_many_errors(tmp_path: Path, proposer: str) -> None:
    store = write_store(tmp_path / "store", range(6))
    masks = str(tmp_path / "masks")
    stage = Precompute(data=store.uri, proposer=proposer, masks=masks, max_instances=1, max_error_rate=0.1)
    with pytest.raises(UserError, match="1 of 6 images could not be used"):
        stage.run()
    assert len(rows(tmp_path / "masks")) == 6
    found = MaskTable(masks).snapshot().rows()
    assert max(len(r["instances"]) for r in found) == 1
    assert Precompute(data=store.uri, proposer=proposer, masks=masks).plan()["pending"] == 6


@pytest.mark.usefixtures("no_ray")
def test_leaky_proposers_are_refused_before_anything_starts(tmp_path: Path, proposer: str) -> None:
    store = write_store(tmp_path / "store", range(2))
    folder = tmp_path / "proposer"
    folder.mkdir()
    for path in Path(proposer).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "images.json").write_text('["coco/0001"]')
    with pytest.raises(UserError, match="1 of 2 of val"):
        Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m")).run()
    (folder / "images.json").write_text("null")
    with pytest.raises(UserError, match="nobody knows"):
        Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m")).plan()
    allowed = Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m"), allow_leaky=True)
    assert allowed.plan()["leaky"] is True
    assert not (tmp_path / "m").exists()


def test_what_is_not_there_is_said(tmp_path: Path, proposer: str) -> None:
    with pytest.raises(UserError, match="is not a data store"):
        Precompute(data=str(tmp_path), proposer=proposer, masks=str(tmp_path / "m")).plan()
    with pytest.raises(UserError, match="is not a proposer"):
        Precompute(data=str(tmp_path), proposer=str(tmp_path), masks=str(tmp_path / "m")).plan()
    with pytest.raises(UserError, match="is not a mask table"):
        MasksStatus(masks=str(tmp_path)).run()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_run_is_continued(tmp_path: Path, proposer: str) -> None:
    store = write_store(tmp_path / "store", range(300))
    masks = tmp_path / "masks"
    command = [sys.executable, "-m", "pipelines", "precompute", "--data", store.uri, "--proposer", proposer]
    command += ["--masks", str(masks), "--commit-every", "0.1", "--batch-size", "1", "--actors", "1"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 300
        while not (masks / "_commits/000002.json").exists():
            assert driver.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
    done = len(rows(masks))
    assert 0 < done < 300
    stage = Precompute(data=store.uri, proposer=proposer, masks=str(masks))
    assert stage.run()["images"] == 300 - done
    assert rows(masks) == Counter(f"coco/{n:04d}" for n in range(300))
    assert list(verify(MaskTable(masks), store)) == []
