"""One photo, from JPEG to all arrays of the training input, on one core: `python -m benchmarks.encoding`.

A photo of 640x480 with 32 proposals and three sentences with their targets, for a canvas of 480 (`vilt-b32`), as
`mail.training.input.TrainingInput` makes it. Printed: its parts in ms, and the whole beside the whole with the filter
that decodes all masks in full, in turns (claims: at most 10 ms, at least 6 times as fast). Then what the masks would
cost in other forms: what a mask table, or a batch on its way to the device, could hold instead. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.scenes import make_photos
from mail import rle
from mail.data.images import open_image, upright_rgb
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.model import MailProcessor, find_preset, tokenizer_from_texts
from mail.proposals import Proposals

SENTENCES = 3


class Decoding(MailProcessor):
    """As it was: every mask decoded in full, converted and resized."""

    def rasterise(self, masks: Sequence[rle.RLE], size: tuple[int, int]) -> np.ndarray:
        cells = self.mask_size
        out = np.zeros((len(masks), cells, cells), np.uint8)
        height, width = (side // self.mask_stride for side in self.canvas_size(*size))
        columns = np.ascontiguousarray(rle.decode_many(masks, size).transpose(0, 2, 1))
        pixels = torch.from_numpy(columns)[None].float() * 255
        found = F.interpolate(pixels, size=(width, height), mode="bilinear", antialias=True)[0]
        out[:, :height, :width] = found.round().clamp(0, 255).byte().numpy().transpose(0, 2, 1)
        return out


def encode(processor: MailProcessor, photo: bytes, proposals: Proposals, texts: list[str], targets: list) -> dict:
    """All arrays of a photo."""
    picture = upright_rgb(open_image(photo))
    return processor.encode(picture, proposals, texts) | {"targets": processor.encode_targets(targets, proposals)}


def milliseconds(parts: dict[str, Callable[..., Any]], photos: Sequence[tuple], runs: int) -> dict[str, float]:
    """Median time of each part, one after another on each photo."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for photo in list(photos) * runs:
        for name, part in parts.items():
            begun = time.perf_counter()
            part(*photo)
            times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in times.items()}


def other_forms(processor: MailProcessor, proposals: Proposals, runs: int) -> None:
    """Prints ways to keep masks: bytes a mask, and the time until the cells of a photo's masks are there."""
    counts = [mask["counts"] for mask in proposals.rles]
    cells = processor.rasterise(proposals.rles, proposals.size)
    inside = [each[np.ix_(each.any(1), each.any(0))] for each in cells]
    deflated, small = ([zlib.compress(each.tobytes(), 1) for each in some] for some in (cells, inside))
    ms = milliseconds(
        {
            "run lengths": lambda: processor.rasterise(proposals.rles, proposals.size),
            "reading": lambda: rle.run_lengths(counts),
            "cells of this canvas, deflated": lambda: list(map(zlib.decompress, deflated)),
            "the same inside each mask's box": lambda: (np.zeros_like(cells), list(map(zlib.decompress, small))),
        },
        [()],
        runs,
    )
    ms["ends of runs, 4 bytes each"] = ms["run lengths"] - ms.pop("reading")
    ends = len(rle.run_lengths(counts)[0])
    held = (sum(map(len, counts)), sum(map(len, deflated)), sum(map(len, small)), 4 * ends)
    for (name, took), size in zip(ms.items(), held, strict=True):
        print(f"{name:<34}{size / len(counts):7.0f} bytes a mask{took:7.2f} ms a photo")
    sent = sum(each.nbytes for each in inside) / len(counts)
    print(
        f"to the device: {cells[0].nbytes} bytes a mask; {sent:.0f} where the device puts down what is inside the box"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--runs", type=int, default=10, help="over all photos")
    parser.add_argument("--folder", type=Path, help="where the photos are made, and kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        store_uri, masks_uri = make_photos(options.folder or Path(temporary), options.photos)
        store = DataStore(store_uri)
        rows = [row for batch in store.images(["image_id", "image"]) for row in batch.to_pylist()][: options.photos]
        sentences = store.expressions(None, ["image_id", "text", "target"]).to_pylist()
        found = MaskTable(masks_uri).snapshot().proposals([row["image_id"] for row in rows])
    photos = []
    for row in rows:
        own = ([s for s in sentences if s["image_id"] == row["image_id"]] * SENTENCES)[:SENTENCES]
        photos.append((row["image"], found[row["image_id"]], [s["text"] for s in own], [s["target"] for s in own]))
    tokenizer = tokenizer_from_texts([s["text"] for s in sentences])
    now, before = (kind.for_config(tokenizer, find_preset("vilt-b32").config()) for kind in (MailProcessor, Decoding))
    different = [now.rasterise(p.rles, p.size).astype(int) - before.rasterise(p.rles, p.size) for _, p, *_ in photos]
    ms = milliseconds(
        {
            "jpeg": lambda photo, *_: upright_rgb(open_image(photo)),
            "image": lambda photo, *_: now.encode_image(upright_rgb(open_image(photo))),
            "proposals": lambda _, proposals, *__: now.encode_proposals(proposals),
            "texts": lambda _, __, texts, ___: now.encode_texts(texts),
            "targets": lambda _, proposals, __, targets: now.encode_targets(targets, proposals),
            "whole": lambda *photo: encode(now, *photo),
            "whole before": lambda *photo: encode(before, *photo),
        },
        photos,
        options.runs,
    )
    ms["image"] -= ms["jpeg"]
    for name, value in ms.items():
        print(f"{name:<13}{value:8.2f} ms")
    other_forms(now, photos[0][1], 10 * options.runs)
    result = {"benchmark": "encoding", "ms": {name: round(value, 2) for name, value in ms.items()}}
    result |= {"largest_difference": int(max(np.abs(each).max() for each in different))}
    print(json.dumps(result | {"ratio": round(ms["whole before"] / ms["whole"], 2)}))


if __name__ == "__main__":
    main()
