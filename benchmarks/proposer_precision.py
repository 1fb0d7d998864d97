"""What bfloat16 in the backbone costs of a proposer's recall: `python -m benchmarks.proposer_precision PROPOSER STORE`.

    python -m benchmarks.proposer_precision runs/demo/proposer runs/demo/store

Share of the referents of the store's first images that have a proposal with an IoU of at least .5, with and without;
the proposer must not have seen them. Claim: they differ by at most .002. The last line is JSON.
"""

import argparse
import itertools
import json
import statistics
from typing import Any

import torch

from mail import rle
from mail.data.images import decode_image
from mail.data.store import DataStore
from mail.inference import default_device
from mail.proposers import load_proposer

BATCH_SIZE = 8


def recall(proposer: Any, store: DataStore, images: int) -> float:
    targets: dict[str, dict[bytes, rle.RLE]] = {}
    for row in store.expressions(None, ["image_id", "target"]).to_pylist():
        targets.setdefault(row["image_id"], {})[row["target"]["counts"]] = row["target"]
    best: list[float] = []
    for batch in itertools.islice(store.images(["image_id", "image"], BATCH_SIZE), -(-images // BATCH_SIZE)):
        found = proposer.propose([decode_image(data) for data in batch["image"].to_pylist()])
        for image_id, proposals in zip(batch["image_id"].to_pylist(), found, strict=True):
            wanted = list(targets.get(image_id, {}).values())
            best += rle.iou_matrix(wanted, proposals.rles).max(axis=1, initial=0).tolist()
    return statistics.mean(iou >= 0.5 for iou in best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proposer", help="a Mask R-CNN's folder")
    parser.add_argument("store", help="a data store")
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    device = default_device()
    proposer: Any = load_proposer(options.proposer, device)
    shares = {}
    for kind in ("fp32", "bf16"):
        proposer.bf16 = kind == "bf16"
        shares[kind] = round(recall(proposer, DataStore(options.store), options.images), 4)
    result = {
        "benchmark": "proposer_precision",
        "ratio": round(shares["bf16"] / shares["fp32"], 4),
        "recall_50": shares,
    }
    result |= {"images": options.images, "device": torch.cuda.get_device_name() if device == "cuda" else "CPU"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
