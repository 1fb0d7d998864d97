"""How near the precompute stage comes to the model alone: `python -m benchmarks.precompute`.

Makes scenes, a data store of them and a small proposer (--folder keeps them for the next time), then takes turns in one
run between the stage, in a process of its own, and two loops in another:

* bare: the network alone on images that lie decoded in memory; nothing is pasted or encoded, nothing is written.
* plain: torchvision's detector as everybody calls it: decode, network with its own pasting, run lengths, in turn.

Both are one process with as many threads as torch likes; the bare one has images of like shape together, as the stage.
The stage's rate is that from a fifth to nine tenths of its images: before and after, not all of it works. For a CPU
there is a third figure that no claim is made about: one bare loop a core, with one thread each.

    python -m benchmarks.precompute --brief --random r50-fpn-v2 --sides 480 640 --images 640 --rounds 1 --seconds 6
takes about 100 s on an H100; on a CPU `--brief --random tiny --batch-size 4 --images 96 --seconds 1` runs it all.

Claims: stage / bare at least .90 on 2 CPU cores and .95 on a GPU, stage / plain at least 1.05; the first row is
committed less than a minute after the start; the memory of driver and workers is the same, within 10 %, for 500 images
and for 4,000.

Memory is what a process has to itself (RssAnon), at its largest; that of all workers is added up at one moment, so that
one which starts later counts on top. Pages of the object store are not in it: they are there once however many workers
map them, and the store is bounded by `OBJECT_STORE_BYTES`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOOP_IMAGES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="of the large store; the small one has an eighth")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the stage on the large store")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each loop, before and after every turn")
    parser.add_argument("--batch-size", type=int, default=None, help="of stage and loops (default: the stage's)")
    parser.add_argument("--proposer", default="", help="a proposer folder (default: `tiny`, trained for --steps)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--random", default="", help="instead: this architecture, untrained, at its preset's size")
    parser.add_argument("--sides", type=int, nargs=2, default=(112, 144), help="smallest and largest of the scenes")
    parser.add_argument("--brief", action="store_true", help="the stage on the large store and the bare loop only")
    parser.add_argument("--device", default="", help="of the loops (default: a GPU if there is one, as for the stage)")
    parser.add_argument("--folder", default="", help="keep scenes, stores, proposer here, or use those that are there")
    parser.add_argument("--part", choices=["stage", "loops"], help=argparse.SUPPRESS)
    parser.add_argument("--masks", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "stage":
        print(json.dumps(run_stage(options)))
    elif options.part == "loops":
        serve_loops(options)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(options, Path(options.folder or temporary))


def compare(options: argparse.Namespace, folder: Path) -> None:
    import torch  # not above: the stage's driver, whose memory is measured, has no use for it

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sides = "-".join(map(str, options.sides))
    random = options.random and make_random_proposer(folder, options.random)
    proposer = random or options.proposer or make_proposer(folder, options.steps)
    cores = len(os.sched_getaffinity(0)) if options.device == "cpu" else 1
    processes = {"bare": 0} if options.brief else {"bare": 0, "plain": 0, f"bare in {cores} processes": cores}
    counts = [options.images] if options.brief else [options.images // 8, options.images]
    stores = [make_store(folder / f"store-{sides}-{count}", count, options.sides) for count in counts]
    with contextlib.ExitStack() as stack:
        tables = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        single = stack.enter_context(loops(options, proposer, stores[-1]))
        apart = single if options.brief else stack.enter_context(loops(options, proposer, stores[-1], cores))
        rates: dict[str, list[float]] = {"stage": [], **{name: [] for name in processes}}

        def measure() -> None:
            for name, number in processes.items():
                rates[name].append((apart if number else single)(name.split()[0]))

        few = [stage_in_its_own_process(options, proposer, store, f"{tables}/small") for store in stores[:-1]]
        many = []
        measure()
        for turn in range(options.rounds):
            many.append(stage_in_its_own_process(options, proposer, stores[-1], f"{tables}/large-{turn}"))
            rates["stage"].append(many[-1]["images_per_second"])
            measure()
    means = {name: statistics.mean(each) for name, each in rates.items()}
    report = {
        "benchmark": "precompute",
        "ratio": round(means["stage"] / means["bare"], 3),
        "images": options.images,
        "images_per_second": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
        **{f"stage/{name}": round(means["stage"] / means[name], 3) for name in processes if name != "bare"},
        "seconds_to_first_commit": [round(s["first_commit"], 1) for s in [*few, *many]],
        "peak_MiB": {f"{n} images": s["peak_MiB"] for n, s in zip(counts, [*few, many[-1]], strict=True)},
        "proposer": options.random or options.proposer or "tiny",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
    }
    for one in few:
        peaks = {kind: many[-1]["peak_MiB"][kind] / size for kind, size in one["peak_MiB"].items()}
        report["memory_ratio"] = {kind: round(ratio, 3) for kind, ratio in peaks.items()}
    print(json.dumps(report))


def make_store(store: Path, images: int, sides: tuple[int, int]) -> Path:
    from mail.data.scenes import SceneConfig
    from pipelines.stages.prepare import PrepareSynthetic

    if not (store / "store.json").exists():
        scene = SceneConfig(min_side=sides[0], max_side=sides[1])
        PrepareSynthetic(out=str(store), images=images, scene=scene).run()
    return store


def make_random_proposer(folder: Path, name: str) -> str:
    import safetensors.torch
    import torch

    from mail.proposers.folder import write_proposer
    from mail.proposers.maskrcnn import build_network
    from mail.proposers.presets import preset

    recipe, out = preset(name), folder / f"random-{name}"
    selection = dataclasses.replace(recipe.selection, score_threshold=0.0)
    torch.manual_seed(0)
    weights = safetensors.torch.save(build_network(recipe.network, selection).state_dict())
    write_proposer(out, network=recipe.network, selection=selection, weights=weights, seen=[], training={})
    return str(out)


def make_proposer(folder: Path, steps: int) -> str:
    from mail.data.scenes import write_published_layout
    from pipelines.stages.train_proposer import TrainProposer

    out = folder / f"proposer-{steps}"
    if not (out / "proposer.json").exists():
        scenes = folder / "scenes"
        write_published_layout(scenes, 300, seed=1)
        instances, photos = scenes / "synthetic/instances.json", scenes / "images/train2014"
        namespace = "synthetic/1"  # other scenes than those of the stores
        TrainProposer(
            instances=str(instances), images=str(photos), out=str(out), steps=steps, workers=0, namespace=namespace
        ).run()
    return str(out)


def run_stage(options: argparse.Namespace) -> dict[str, Any]:
    from pipelines.precomputing.sink import MaskSink
    from pipelines.stages.precompute import Precompute

    arrivals: list[tuple[float, int]] = []  # when, rows by then
    add = MaskSink.add

    def timed(sink: MaskSink, rows: Any) -> None:
        add(sink, rows)
        arrivals.append((time.monotonic(), sink.rows))

    MaskSink.add = timed
    stage = Precompute(data=options.data, proposer=options.proposer, masks=options.masks, batch_size=options.batch_size)
    result = stage.run()
    begun, ended = (next(a for a in arrivals if a[1] >= share * result["images"]) for share in (0.2, 0.9))
    if ended[0] > begun[0]:
        result["images_per_second"] = (ended[1] - begun[1]) / (ended[0] - begun[0])
    return result


def stage_in_its_own_process(options: argparse.Namespace, proposer: str, store: Path, masks: str) -> dict[str, Any]:
    """What the stage returns, seconds to its `first_commit`, and `peak_MiB` of the driver and of all Ray workers."""
    command = [sys.executable, "-m", "benchmarks.precompute", "--part", "stage", "--data", str(store)]
    command += ["--proposer", proposer, "--masks", masks]
    command += ["--batch-size", str(options.batch_size)] if options.batch_size else []
    begun, first = time.monotonic(), 0.0
    peaks = {"driver": 0.0, "workers": 0.0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        assert output is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(output))
        reader.start()
        while process.poll() is None:
            if not first and Path(masks, "_delta_log", f"{1:020}.json").exists():
                first = time.monotonic() - begun
            for kind, size in private_memory(process.pid).items():
                peaks[kind] = max(peaks[kind], size)
            time.sleep(0.1)
        reader.join()
    if process.returncode:
        raise SystemExit(f"the stage ended with code {process.returncode}")
    return {**json.loads(lines[-1]), "first_commit": first, "peak_MiB": {k: round(v) for k, v in peaks.items()}}


def private_memory(driver: int) -> dict[str, float]:
    """MiB of a driver, and of all Ray workers below it, that are theirs alone: without the object store's pages."""
    parents: dict[int, int] = {}
    sizes: dict[int, tuple[str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, KeyError):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            pid = int(path.parent.name)
            parents[pid] = int(fields["PPid"])
            sizes[pid] = (fields["Name"].strip(), int(fields["RssAnon"].split()[0]) / 1024)
    found = {"driver": sizes.get(driver, ("", 0.0))[1], "workers": 0.0}
    for pid, (name, size) in sizes.items():
        above = pid
        while above not in (driver, 0, 1):
            above = parents.get(above, 0)
        if above == driver and name.startswith("ray::"):
            found["workers"] += size
    return found


@contextlib.contextmanager
def loops(
    options: argparse.Namespace, proposer: str, store: Path, processes: int = 0
) -> Iterator[Callable[[str], float]]:
    """Runs a loop when it is asked to, and says how many images a second it did.

    Args:
        processes: so many at once, with one thread each; 0: one with torch's own number of threads.
    """
    command = [sys.executable, "-m", "benchmarks.precompute", "--part", "loops", "--data", str(store)]
    command += ["--proposer", proposer, "--seconds", str(options.seconds), "--device", options.device]
    command += ["--batch-size", str(options.batch_size)] if options.batch_size else []
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if processes else {})}
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
            for _ in range(processes or 1)
        ]

        def measure(loop: str) -> float:
            for process in started:
                print(loop, file=process.stdin, flush=True)
            return sum(float(process.stdout.readline()) for process in started if process.stdout)

        yield measure
        for process in started:
            if process.stdin:
                process.stdin.close()


def serve_loops(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from mail import rle
    from mail.data.images import decode_image
    from mail.data.store import DataStore
    from mail.proposers import load_proposer
    from pipelines.precomputing.precompute import BATCHES_A_UNIT

    proposer: Any = load_proposer(options.proposer, options.device)
    size = options.batch_size or (8 if options.device == "cuda" else 16)
    read = (data for b in DataStore(options.data).images(["image"], size) for data in b["image"].to_pylist())
    images = list(itertools.islice(read, LOOP_IMAGES))
    files = [images[at : at + size] for at in range(0, len(images) - size + 1, size)]
    decoded = []
    for start in range(0, len(files), BATCHES_A_UNIT):
        unit = [decode_image(data) for batch in files[start : start + BATCHES_A_UNIT] for data in batch]
        unit.sort(key=lambda image: image.shape[0] / image.shape[1])
        decoded += [unit[at : at + size] for at in range(0, len(unit), size)]

    def bare(number: int) -> None:
        proposer.detect(decoded[number])

    @torch.inference_mode()
    def plain(number: int) -> None:
        pictures = [torch.from_numpy(decode_image(data)) for data in files[number]]
        pictures = [p.to(options.device).permute(2, 0, 1).float() / 255 for p in pictures]
        for found in proposer.network(pictures):
            rle.encode_many((found["masks"][:, 0] >= 0.5).cpu().numpy().astype(np.uint8))

    for line in sys.stdin:
        loop = {"bare": bare, "plain": plain}[line.strip()]
        for number in range(3):
            loop(number % len(files))  # warms up
        begun, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < options.seconds:
            loop(count % len(files))
            count += 1
        print(count * size / spent, flush=True)


if __name__ == "__main__":
    main()
