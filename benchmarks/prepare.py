"""`prepare refcoco` against a bare loop over the same photos: `python -m benchmarks.prepare [--images 20000]`.

RefCOCO-sized files in the published form are made first (photos of 640x480, about seven expressions each; --folder
keeps them). The bare loop is what anybody would write: a process a core reads, hashes and decodes photos and writes
them into Parquet. Printed as well: copying the photos alone, and the memory of `prepare` and of what it starts. Claims:
at least .7 of the bare loop's photos a second, less than 2 GiB. The last line is JSON.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image

from mail import rle
from mail.data.scenes import SceneConfig, generate_scene

REFLECTIONS = 4  # of a scene, each a photo: drawing them takes longer than all that is measured
ROW_GROUP = 64


def write_published(root: Path, photos: int) -> None:
    """`refcoco/refs(unc).p`, `refcoco/instances.json` and `images/train2014` of so many photos."""
    where, images, annotations, refs = root / "images" / "train2014", [], [], []
    where.mkdir(parents=True)
    (root / "refcoco").mkdir()
    for number in range(photos):
        if number % REFLECTIONS == 0:
            scene = generate_scene(0, number // REFLECTIONS, SceneConfig(min_side=640, max_side=640, max_refs=3))
        down, across = (slice(None, None, -1 if number >> bit & 1 else 1) for bit in (0, 1))
        name = f"COCO_train2014_{number + 1:012d}.jpg"
        Image.fromarray(scene.image[80:560][down, across]).save(where / name, "JPEG", quality=90)
        images.append({"id": number + 1, "file_name": name, "height": 480, "width": 640})
        for reference in scene.references:
            mask = rle.decode(scene.objects[reference.target].mask)[80:560][down, across]
            ann_id = len(annotations) + 1
            own = rle.encode(mask)
            annotation = {"id": ann_id, "image_id": number + 1, "category_id": 1, "iscrowd": 0}
            annotation |= {"segmentation": rle.to_json(own), "area": rle.area(own), "bbox": list(rle.bbox(own))}
            annotations.append(annotation)
            said = [s.text for s in reference.sentences]
            sentences = [
                {"sent_id": 10 * ann_id + n, "sent": t, "raw": t, "tokens": t.split()} for n, t in enumerate(said)
            ]
            ref = {"ref_id": ann_id, "ann_id": ann_id, "image_id": number + 1, "category_id": 1, "file_name": name}
            refs.append(ref | {"split": "train", "sentences": sentences, "sent_ids": [s["sent_id"] for s in sentences]})
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(content))
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))


def bare(task: tuple[list[Path], Path]) -> int:
    """Reads, hashes and decodes photos, and writes them into a Parquet file."""
    paths, out = task
    schema = pa.schema({"name": pa.string(), "image": pa.binary(), "sha256": pa.string(), "pixels": pa.string()})
    with pq.ParquetWriter(out, schema, compression="none") as writer:
        for start in range(0, len(paths), ROW_GROUP):
            rows = []
            for path in paths[start : start + ROW_GROUP]:
                data = path.read_bytes()
                pixels = Image.open(io.BytesIO(data)).convert("RGB").tobytes()
                digests = (hashlib.sha256(data).hexdigest(), blake3(pixels).hexdigest())
                rows.append({"name": path.name, "image": data, "sha256": digests[0], "pixels": digests[1]})
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return len(paths)


def timed_bare(photos: list[Path], out: Path) -> float:
    """Photos a second of the bare loop, a process a core."""
    out.mkdir()
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(len, [[]] * cores))  # they have started
        begun = time.perf_counter()
        done = sum(pool.map(bare, [(photos[n::cores], out / f"{n}.parquet") for n in range(cores)]))
        return done / (time.perf_counter() - begun)


def timed_prepare(root: Path, out: Path, photos: int) -> tuple[float, float]:
    """Photos a second of `prepare` from its start to its end, and its memory in MiB, all of its processes together."""
    command = [sys.executable, "-m", "pipelines", "prepare", "refcoco", "--root", str(root), "--out", str(out)]
    begun, largest, ended = time.perf_counter(), 0, threading.Event()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)

    def watch() -> None:
        nonlocal largest
        while not ended.wait(0.2):
            found = 0
            for one in (watched, *watched.children(recursive=True)):
                try:
                    found += one.memory_full_info().uss
                except psutil.Error:
                    continue
            largest = max(largest, found)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    seconds = time.perf_counter() - begun
    ended.set()
    thread.join()
    if code:
        raise SystemExit(f"prepare ended with {code}")
    return photos / seconds, largest / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the published files are made, and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        root = options.folder or work / "published"
        if not (root / "refcoco" / "refs(unc).p").exists():
            write_published(root, options.images)
        photos = sorted((root / "images" / "train2014").iterdir())
        begun = time.perf_counter()
        shutil.copytree(root / "images", work / "copied")
        copying = len(photos) / (time.perf_counter() - begun)
        loops = [timed_bare(photos, work / "before")]
        speed, memory = timed_prepare(root, work / "store", len(photos))
        loops.append(timed_bare(photos, work / "after"))
    result = {
        "benchmark": "prepare",
        "ratio": round(speed / (sum(loops) / len(loops)), 3),
        "images": len(photos),
        "images_per_second": {"prepare": round(speed, 1), "bare": [round(n, 1) for n in loops], "copy": round(copying)},
        "peak_MiB": round(memory),
        "device": f"{os.cpu_count()} cores",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
