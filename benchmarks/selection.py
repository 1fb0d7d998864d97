"""Selecting proposals from a detector's masks, on one core: `python -m benchmarks.selection [--detections 100]`.

Photos of 640x480 with detections like those of a trained Mask R-CNN, 28x28 each, a good third of them duplicates. In
turns, the product and the plain way, which pastes all of them onto whole images, encodes them and asks pycocotools for
the IoU of every pair. Both give the same proposals, bit for bit.

Claims: at most 15 ms an image with 100 detections, all of which may stay. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import numpy as np

from mail import rle
from mail.proposals import Proposals
from mail.proposers.config import SelectionConfig
from mail.proposers.paste import Detections, paste, select

SIZE = (480, 640)


def detections(random: np.random.Generator, count: int) -> Detections:
    """Of things from 30 to 400 pixels wide; what is found of a thing differs by a tenth of its size."""
    height, width = SIZE
    rows, columns = np.mgrid[:28, :28] - 13.5
    things = random.uniform(0, 1, (max(1, count // 4), 4))
    boxes, masks = [], []
    for x, y, side, shape in things[random.integers(len(things), size=count)]:
        sides = 30 * (400 / 30) ** side * np.array([1, 1]) * np.exp((shape - 0.5) * np.array([1, -1]))
        corner = np.array([x * width, y * height]) - sides / 2
        box = np.concatenate([corner, corner + sides]) + random.normal(0, 0.04, 4) * sides.mean()
        boxes.append(box.clip(0, [width, height, width, height]))
        outline = random.uniform(9, 12) * (1 + 0.1 * np.sin(3 * np.arctan2(rows, columns) + 6 * shape))
        masks.append((1 / (1 + np.exp(np.hypot(rows, columns) - outline))).astype(np.float32))
    scores, labels = random.uniform(0.05, 1, count), random.integers(1, 91, count)
    return Detections(np.array(boxes, np.float32), scores.astype(np.float32), labels.astype(np.int32), masks)


def select_plainly(found: Detections, size: tuple[int, int], selection: SelectionConfig) -> Proposals:
    """What `select` gives, in the obvious way."""
    order = np.argsort(-found.scores, kind="stable")
    pasted = []
    for i in order:
        canvas = np.zeros(size, np.uint8, order="F")
        part = paste(found.masks[i], found.boxes[i], size, selection.mask_threshold, found.edge)
        height, width = part.inside.shape
        canvas[part.top : part.top + height, part.left : part.left + width] = part.inside
        pasted.append(rle.coco_mask.encode(canvas))
    overlap, kept = rle.iou_matrix(pasted, pasted), []
    for i in range(len(order)):
        if len(kept) == selection.max_instances:
            break
        if rle.area(pasted[i]) > 0 and not any(overlap[i, k] > selection.duplicate_iou for k in kept):
            kept.append(i)
    rles, chosen = [pasted[i] for i in kept], order[kept]
    tight = np.array([rle.bbox(r) for r in rles], np.float32).reshape(-1, 4)
    return Proposals(size, found.scores[chosen], found.labels[chosen], tight, rles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=int, default=100, help="an image")
    parser.add_argument("--images", type=int, default=20)
    options = parser.parse_args()
    random, selection = np.random.default_rng(0), SelectionConfig(max_instances=options.detections)
    images = [detections(random, options.detections) for _ in range(options.images)]
    times: dict[str, list[float]] = {"select": [], "plainly": []}
    kept = 0
    for found in [images[0], *images]:  # the first one warms up
        results = []
        for name, run in (("select", select), ("plainly", select_plainly)):
            begun = time.perf_counter()
            results.append(run(found, SIZE, selection))
            times[name].append(1000 * (time.perf_counter() - begun))
        if results[0].rles != results[1].rles:
            raise SystemExit("the proposals differ")
        kept += len(results[0])
    ours, plainly = (statistics.mean(times[name][1:]) for name in ("select", "plainly"))
    result = {"benchmark": "selection", "ratio": round(plainly / ours, 2), "detections": options.detections}
    result |= {
        "ms_an_image": round(ours, 2),
        "plainly_ms": round(plainly, 1),
        "kept": round(kept / (1 + len(images)), 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
