"""A store of small noisy photos, one of them cut short, and a real detector that was never trained: it finds things
everywhere. For the tests of precompute, which care about rows and not about what is in them."""

import io
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.proposers.maskrcnn import build_network

TRUNCATED = 3


def image_id(number: int) -> str:
    return f"coco/{number:04d}"


def make_proposer(path: str | Path) -> ProposerFolder:
    torch.manual_seed(0)
    network = NetworkConfig(min_size=64, max_size=96)
    weights = safetensors.torch.save(build_network(network).state_dict())
    selection = SelectionConfig(score_threshold=0.0, max_instances=3)
    return write_proposer(path, network=network, selection=selection, weights=weights, seen=["coco/7"], training={})


def set_seen(folder: str | Path, seen: list | None) -> None:
    """Gives a proposer another list of what it saw, as one of an earlier version, whose list had no digest."""
    record = json.loads(Path(folder, "proposer.json").read_text())
    kept = {key: value for key, value in record.items() if key not in ("images_sha256", "sha256")}
    Path(folder, "proposer.json").write_text(json.dumps(kept))
    Path(folder, "images.json").write_text(json.dumps(seen))


def write_store(folder: str | Path, numbers: range, split: str = "val") -> DataStore:
    writer = DataStoreWriter(folder, "noise")
    for number in numbers:
        size = (40 + number % 5, 60)
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        broken = number == TRUNCATED
        data = buffer.getvalue()[:-400] if broken else buffer.getvalue()
        height, width = (0, 0) if broken else size
        writer.add_image(image_id=image_id(number), file_name=f"{number}.jpg", image=data, height=height, width=width)
        writer.add_expression(
            expr_id=f"noise/{number}",
            ref_id=f"noise/{number}",
            image_id=image_id(number),
            split=split,
            text="this",
            target={"size": [40, 60], "counts": b"PV1"},
            no_target=True,
            ann_ids=[],
            category="",
        )
    return writer.finish()
