"""How large a gallery of 5,000 expressions is, and how soon Chromium shows it: `python -m benchmarks.gallery`.

Draws 5,000 expressions on generated scenes of photo size (as many images as RefCOCO's testA has, about), with shifted
masks as two models' predictions, writes the page and opens it from disk in headless Chromium with an empty profile.
Claims: under 40 MB; on the screen, with its first pictures drawn, in under 3 s. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mail import rle
from mail.data.scenes import SceneConfig, generate_scene
from mail.evaluation import thumbnail
from mail.metrics import count
from mail.metrics.measure import iou
from mail.metrics.slices import kind_of_words, length_class, size_class, tokenize
from mail.report.gallery import GalleryAnswer, GalleryEntry, GalleryImage, thumbnail_side, write_gallery
from tests.browser import MISSING, chromium, find_chromium, open_page, wait_until

PHOTOS = SceneConfig(min_side=427, max_side=640, max_refs=4)
PER_IMAGE = 6.5  # expressions of a scene, about


def make_entries(expressions: int, models: int) -> tuple[dict[str, GalleryImage], list[GalleryEntry]]:
    """Scenes with their expressions, and predictions that miss by a random shift, sometimes altogether."""
    random = np.random.default_rng(0)
    side = thumbnail_side(round(expressions / PER_IMAGE))
    images: dict[str, GalleryImage] = {}
    entries: list[GalleryEntry] = []
    number = 0
    while len(entries) < expressions:
        scene = generate_scene(0, number, PHOTOS)
        image_id = f"scenes/{number:06d}"
        number += 1
        images[image_id] = GalleryImage(*scene.size, thumbnail(scene.image, side))
        proposals = [o.mask for o in scene.objects]
        masks = [rle.decode(p) for p in proposals]
        for reference in scene.references:
            target = proposals[reference.target]
            others = len(scene.objects) - 1
            for sentence in reference.sentences:
                answers = []
                for _ in range(models):
                    chosen = reference.target if random.random() < 0.7 else int(random.integers(len(masks)))
                    shift = random.normal(0, 6, 2).astype(int)
                    predicted = rle.encode(np.roll(masks[chosen], shift, (0, 1)))
                    value = iou(count(predicted, target))
                    answers.append(GalleryAnswer(predicted, value, float(random.random()), [proposals[chosen]]))
                words = tokenize(sentence.text)
                slices = {
                    "category": sentence.meaning.category,
                    "words": length_class(len(words)),
                    "target size": size_class(rle.area(target)),
                    "same category": str(others) if others < 3 else "3+",
                    "kind of words": kind_of_words(words),
                }
                expr_id = f"scenes/{len(entries)}"
                entries.append(GalleryEntry(expr_id, image_id, sentence.text, target, answers, slices))
    return images, entries[:expressions]


def open_times(page: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds until the page has drawn its first pictures, and until it answered a search; a fresh browser each."""
    opened, searched = [], []
    for _ in range(repeats):
        with chromium() as tab:
            start = time.perf_counter()
            open_page(tab, page)
            opened.append(time.perf_counter() - start)
            before = tab.text_content("#count")
            start = time.perf_counter()
            tab.fill("#search", "red")
            wait_until(tab, f"document.getElementById('count').textContent !== {json.dumps(before)}")
            searched.append(time.perf_counter() - start)
    return opened, searched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expressions", type=int, default=5000)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="file for the page (default: it is deleted)")
    options = parser.parse_args()
    if find_chromium() is None:
        raise SystemExit(MISSING)
    print(f"drawing {options.expressions} expressions")
    images, entries = make_entries(options.expressions, options.models)
    with tempfile.TemporaryDirectory() as folder:
        page = (options.keep or Path(folder) / "gallery.html").absolute()
        start = time.perf_counter()
        names = ["this model", "the other one"][: options.models]
        shown = write_gallery(page, title="scenes / testA", models=names, images=images, entries=entries)
        written = time.perf_counter() - start
        megabytes = page.stat().st_size / 1e6
        print(f"{megabytes:.1f} MB, {shown} expressions on {len(images)} images, written in {written:.2f} s")
        opened, searched = open_times(page, options.repeats)
    result = {
        "benchmark": "gallery",
        "expressions": shown,
        "images": len(images),
        "models": options.models,
        "megabytes": round(megabytes, 1),
        "seconds_to_write": round(written, 2),
        "seconds_to_open": round(statistics.median(opened), 2),
        "seconds_to_open_slowest": round(max(opened), 2),
        "seconds_to_search": round(statistics.median(searched), 2),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
