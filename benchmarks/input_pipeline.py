"""The training input alone, through Ray tasks and through torch's DataLoader: `python -m benchmarks.input_pipeline`.

Both build the same batches with the same code (`mail.training.input`) in the same number of processes, in one run, one
after the other, in turns. Printed: expressions a second of each, the ratio (claim: at least 1.3), the memory of the
consuming process and of all its children after each epoch (claim: flat over three), the share of a core that carrying
batches costs the trainer's process while it is busy with something else (claim: at most .02), and, of a real training
with `tiny` on the CPU, the share of the step time spent waiting for data (claim: under .1 %).

    python -m benchmarks.input_pipeline --real --folder FOLDER    photos of 640x480 with 32 proposals, for `vilt-b32`

measures throughput alone (claim: at least 1.2 times DataLoader's), and says how many such cores feed a GPU that trains
at 45 % of an H100 (claim: at most 8).
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch

from benchmarks.scenes import make_photos, make_scenes
from mail import addresses
from mail.data.epoch_plan import EpochPlan
from mail.training.input import TrainingInput
from mail.training.run_plan import RunPlan
from mail.training.step import TrainingBatch
from pipelines.stages.train import Train
from pipelines.training.input import Transport, ray_batches

GPU_RATE = 2100  # expressions a second of `vilt-b32` at 480, at 45 % of an H100

Stream = Callable[[int, int], Generator[TrainingBatch, None, None]]


class Steps(torch.utils.data.Dataset):
    """The steps of a run as a map-style data set; an item is a whole batch."""

    def __init__(self, source: TrainingInput, plan: EpochPlan, start: int, stop: int):
        self._source, self._plan, self._start, self._stop = source, plan, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, number: int) -> TrainingBatch:
        if number >= len(self):
            raise IndexError
        torch.set_num_threads(1)
        step = self._start + number
        return next(self._source.build(list(self._plan.batches(step, step + 1))))


def through_torch(source: TrainingInput, plan: EpochPlan, processes: int) -> Stream:
    def stream(start: int, stop: int) -> Generator[TrainingBatch, None, None]:
        steps = Steps(source, plan, start, stop)
        loader = torch.utils.data.DataLoader(
            steps, batch_size=None, num_workers=processes, prefetch_factor=4, multiprocessing_context="forkserver"
        )
        yield from loader

    return stream


def through_ray(source: TrainingInput, plan: EpochPlan, processes: int) -> Stream:
    import ray

    def stream(start: int, stop: int) -> Generator[TrainingBatch, None, None]:
        shared = ray.put((source, plan))  # anew: nothing that an earlier stream has read is kept
        return ray_batches(shared, start, stop, transport=Transport(cpus=processes))

    return stream


def throughput(stream: Stream, start: int, steps: int, warm: int) -> float:
    """Expressions a second of `steps` steps in the middle of a long training.

    Neither its start, nor filling caches (the first `warm` steps), nor its end, where one process has the last work and
    the others none, is compared.

    The batches are taken as fast as they come, so that none lie ready when the time begins.
    """
    with contextlib.closing(stream(start, start + warm + 2 * steps)) as batches:
        for _ in itertools.islice(batches, warm):
            pass
        begun = time.perf_counter()
        count = sum(len(batch.plan.rows) for batch in itertools.islice(batches, steps))
        return count / (time.perf_counter() - begun)


def memory_mib() -> float:
    """Private memory of this process and of everything that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total / 1024


def memory_over_epochs(stream: Stream, plan: EpochPlan, epochs: int) -> list[float]:
    """MiB at the end of each epoch of one long stream."""
    edges = [round((e + 1) * plan.steps_per_epoch) for e in range(epochs)]
    found = []
    for batch in stream(0, edges[-1]):
        if batch.plan.step + 1 in edges:
            found.append(round(memory_mib(), 1))
    return found


def busy_trainer(stream: Stream, steps: int, step_seconds: float) -> float:
    """Cores used in this process while it takes a batch every `step_seconds` and otherwise does nothing."""
    batches = itertools.islice(stream(0, 100_000), steps)
    next(batches)
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in batches:
        time.sleep(step_seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - begun)


def waiting_share(folder: Path, store: str, masks: str, steps: int) -> dict[str, float]:
    """Of a training on one worker: share of the time from step 10 on, and of all of it, spent waiting for data."""
    from pipelines.registry.client import connect

    result = Train(
        preset="tiny",
        data=store,
        masks=masks,
        name=f"input-{time.time_ns()}",
        out=str(folder / "run"),
        steps=steps,
        validation_expressions=0,
        checkpoint_every=steps,
        register=False,
    ).run()
    client = connect()
    history = {
        key: {m.step: m.value for m in client.get_metric_history(result["run_id"], f"speed/{key}")}
        for key in ("seconds", "waiting_for_data")
    }

    def share(first: int) -> float:
        laps = [(s, history["waiting_for_data"][step]) for step, s in history["seconds"].items() if step > first]
        return sum(s * w for s, w in laps) / sum(s for s, _ in laps)

    laps = [s for step, s in history["seconds"].items() if step > 10]
    return {"from_step_10": share(10), "with_the_start": share(0), "seconds_per_step": sum(laps) / (steps - 10)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="throughput at the real size")
    parser.add_argument("--images", type=int, help="default: 600; 1200 with --real")
    parser.add_argument("--steps", type=int, help="of each measurement of throughput; default: 640; 80 with --real")
    parser.add_argument("--turns", type=int, default=3, help="of throughput; the median counts")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--train-steps", type=int, default=120, help="0 leaves the training out")
    parser.add_argument("--folder", type=Path, help="where the data is made, and kept")
    parser.add_argument("--only", choices=["throughput", "memory", "busy", "training"], help="one measurement alone")
    args = parser.parse_args()
    images, steps = args.images or (1200 if args.real else 600), args.steps or (80 if args.real else 640)
    from pipelines.cluster_session.session import connect

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        os.environ.setdefault("MLFLOW_TRACKING_URI", addresses.sqlite_uri(Path(temporary) / "mlflow.db"))
        store, masks = (make_photos if args.real else make_scenes)(folder, images)
        preset = {"preset": "vilt-b32", "pretrained": "none", "tokenizer": "none"} if args.real else {"preset": "tiny"}
        plan = RunPlan.make(Train(data=store, masks=masks, name="input", **preset))
        result: dict[str, Any] = {"benchmark": "input_pipeline", "images": images, "processes": args.processes}
        wanted = lambda name: args.only in ((None, name) if not args.real else (name,))  # noqa: E731
        with connect(num_cpus=2):
            ours = through_ray(plan.source, plan.epochs, args.processes)
            theirs = through_torch(plan.source, plan.epochs, args.processes)
            if args.real or wanted("throughput"):
                # every process has seen most images by then; at the real size none keeps as many
                warm = 16 if args.real else round(plan.epochs.steps_per_epoch)
                pairs = [
                    tuple(throughput(s, n * steps, steps, warm) for s in (ours, theirs)) for n in range(args.turns)
                ]
                result["ray_expressions_per_second"] = round(statistics.median(o for o, _ in pairs))
                result["data_loader_expressions_per_second"] = round(statistics.median(t for _, t in pairs))
                result["ratio"] = round(statistics.median(o / t for o, t in pairs), 3)
                if args.real:
                    cores = GPU_RATE * args.processes / result["ray_expressions_per_second"]
                    print(f"{cores:.1f} such cores feed a GPU that takes {GPU_RATE} expressions a second")
                    result["cores_for_a_gpu"] = round(cores, 1)
            if wanted("busy"):
                result["cores_while_the_trainer_is_busy"] = round(busy_trainer(ours, 40, 0.3), 3)
            if wanted("memory"):
                result["mib_after_each_epoch"] = memory_over_epochs(ours, plan.epochs, args.epochs)
            if wanted("training") and args.train_steps:
                share = waiting_share(Path(temporary), store, masks, args.train_steps)
                result["waiting_for_data"] = {k: round(v, 4) for k, v in share.items()}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
