"""Scoring on run lengths against decoding masks, and the paired bootstrap: `python -m benchmarks.metrics`.

Claims: scoring 10,000 predictions of 640x480 is at least 5 times faster than decoding both masks for numpy, with equal
results; a paired bootstrap of 10,000 resamples over 10,000 expressions takes less than 5 s. The last line is JSON.
"""

import argparse
import json
import os
import time

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mail import rle
from mail.data.segmentation import find_invalid
from mail.metrics import Counts, count, measure, paired_bootstrap

HEIGHT, WIDTH = 480, 640


def blob(random: np.random.Generator, centre: tuple[float, float], radius: float, points: int = 60) -> np.ndarray:
    """A wobbly outline, filled: about as many run lengths as a COCO object has."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    waves = [random.normal(0, 0.3 / k) * np.sin(k * angles + random.uniform(0, 6.3)) for k in range(2, 9)]
    radii = radius * np.clip(1 + sum(waves), 0.3, 2)
    outline = [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]
    picture = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(picture).polygon(outline, fill=1)
    return np.array(picture)


def make_pairs(number: int) -> list[tuple[rle.RLE, rle.RLE]]:
    """Predictions near their ground truth, with the sizes that objects in COCO have."""
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(number):
        centre, radius = (random.uniform(0, WIDTH), random.uniform(0, HEIGHT)), random.uniform(15, 180)
        target = rle.encode(blob(random, centre, radius))
        shifted = (centre[0] + random.normal(0, radius / 6), centre[1] + random.normal(0, radius / 6))
        pairs.append((rle.encode(blob(random, shifted, radius)), target))
    return pairs


def by_decoding(prediction: rle.RLE, target: rle.RLE) -> Counts:
    """What the published code bases do."""
    a, b = coco_mask.decode(prediction).astype(bool), coco_mask.decode(target).astype(bool)
    return Counts(*(int(m.sum()) for m in (a & b, a | b, a, b)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    print(f"making {options.predictions} pairs of {WIDTH}x{HEIGHT} masks")
    pairs = make_pairs(options.predictions)

    start = time.perf_counter()
    strings = [p["counts"] for p, _ in pairs]
    assert not find_invalid(strings, [HEIGHT * WIDTH] * len(pairs))
    checked = time.perf_counter() - start
    start = time.perf_counter()
    counts = [count(p, t) for p, t in pairs]
    on_run_lengths = checked + time.perf_counter() - start
    start = time.perf_counter()
    decoded = [by_decoding(p, t) for p, t in pairs]
    by_numpy = time.perf_counter() - start
    assert counts == decoded, "the two ways of counting differ"
    speedup = by_numpy / on_run_lengths
    print(f"on run lengths {on_run_lengths:.2f} s (of them {checked:.2f} s checks), decoded {by_numpy:.2f} s")

    candidate = {f"e{n}": c for n, c in enumerate(counts)}
    baseline = {f"e{n}": by_shift(c) for n, c in enumerate(counts)}
    start = time.perf_counter()
    differences = paired_bootstrap(candidate, baseline, resamples=options.resamples)
    bootstrap = time.perf_counter() - start
    print(f"paired bootstrap {bootstrap:.2f} s: {differences['mIoU']}")
    result = {
        "benchmark": "metrics",
        "predictions": len(pairs),
        "mean_run_length_bytes": round(float(np.mean([len(s) for s in strings]))),
        "seconds_run_lengths": round(on_run_lengths, 3),
        "seconds_decoding": round(by_numpy, 3),
        "ratio": round(speedup, 1),
        "equal": True,
        "mIoU": measure(candidate).mIoU,
        "bootstrap_resamples": options.resamples,
        "bootstrap_seconds": round(bootstrap, 2),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result))


def by_shift(counts: Counts) -> Counts:
    """A baseline that finds a tenth less."""
    hit = counts.intersection * 9 // 10
    return Counts(hit, counts.predicted + counts.target - hit, counts.predicted, counts.target)


if __name__ == "__main__":
    main()
