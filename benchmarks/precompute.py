"""How near the precompute stage comes to the model alone: `python -m benchmarks.precompute`.

Makes scenes, a data store of them and a small proposer (--folder keeps them for the next time), then takes turns in one
run between the stage, in a process of its own, and two loops in another:

* bare: the network alone on images that lie decoded in memory; nothing is pasted or encoded, nothing is written.
* plain: torchvision's detector as everybody calls it: decode, network with its own pasting, run lengths, one after
  the other.

Both are one process with as many threads as torch likes. For a CPU there is a third figure that no claim is made about:
the bare loop in one process a core with one thread each, which is all that the cores can do.

Claims: stage / bare at least .90 on 2 CPU cores, stage / plain at least 1.05; the first row is committed less than a
minute after the start; the memory of driver and workers is the same, within 10 %, for 500 images and for 4,000.

Memory is what a process has to itself (RssAnon), at its largest; that of all workers is added up at one moment, so that
one which starts later counts on top. Pages of the object store are not in it: they are there once however many workers
map them, and the store is bounded by `OBJECT_STORE_BYTES`.
"""

import argparse
import contextlib
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
    parser.add_argument("--device", default="cpu", help="of the loops; the stage takes a GPU where there is one")
    parser.add_argument(
        "--folder", default="", help="keep scenes, stores and proposer here, or use those that are there"
    )
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
    large, small = folder / f"store-{options.images}", folder / f"store-{options.images // 8}"
    proposer = options.proposer or make_proposer(folder, options.steps)
    for store, count in ((large, options.images), (small, options.images // 8)):
        make_store(store, count)
    cores = len(os.sched_getaffinity(0)) if options.device == "cpu" else 1
    with (
        tempfile.TemporaryDirectory(dir=folder) as tables,
        loops(options, proposer, large) as measure,
        loops(options, proposer, large, processes=cores) as measure_cores,
    ):
        few = stage_in_its_own_process(options, proposer, small, f"{tables}/small")
        bare, plain, per_core, stages = [measure("bare")], [measure("plain")], [measure_cores("bare")], []
        for turn in range(options.rounds):
            stages.append(stage_in_its_own_process(options, proposer, large, f"{tables}/large-{turn}"))
            bare.append(measure("bare"))
            plain.append(measure("plain"))
            per_core.append(measure_cores("bare"))
    rate, many = statistics.mean(s["images_per_second"] for s in stages), stages[-1]
    report = {
        "benchmark": "precompute",
        "ratio": round(rate / statistics.mean(bare), 3),
        "images": options.images,
        "images_per_second": {
            "stage": [round(s["images_per_second"], 1) for s in stages],
            "bare": [round(b, 1) for b in bare],
            "plain": [round(p, 1) for p in plain],
            f"bare in {cores} processes": [round(p, 1) for p in per_core],
        },
        "stage/plain": round(rate / statistics.mean(plain), 3),
        f"stage/bare in {cores} processes": round(rate / statistics.mean(per_core), 3),
        "seconds_to_first_commit": [round(s["first_commit"], 1) for s in [few, *stages]],
        "peak_MiB": {f"{n} images": s["peak_MiB"] for n, s in ((options.images // 8, few), (options.images, many))},
        "memory_ratio": {kind: round(many["peak_MiB"][kind] / few["peak_MiB"][kind], 3) for kind in few["peak_MiB"]},
    }
    print(json.dumps(report))


def make_store(store: Path, images: int) -> None:
    from pipelines.stages.prepare import PrepareSynthetic

    if not (store / "store.json").exists():
        PrepareSynthetic(out=str(store), images=images).run()


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
    from pipelines.stages.precompute import Precompute

    stage = Precompute(data=options.data, proposer=options.proposer, masks=options.masks, batch_size=options.batch_size)
    return stage.run()


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

    proposer: Any = load_proposer(options.proposer, options.device)
    size = options.batch_size or (8 if options.device == "cuda" else 16)
    batches = [b["image"].to_pylist() for b in DataStore(options.data).images(["image"], size) if len(b) == size]
    files = batches[: max(1, LOOP_IMAGES // size)]
    decoded = [[decode_image(data) for data in batch] for batch in files]

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
