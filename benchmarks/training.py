"""A real training at the real size, through Ray, from photos and their masks: `python -m benchmarks.training`.

    python -m benchmarks.training                      `vilt-b32` from nothing, on one worker
    python -m benchmarks.training --preset tiny --steps 12

Photos of 640x480 with 36 proposals each are made first (--folder keeps them). Measured is what the run logged of
its second half, when everything is compiled and warm: expressions a second, the share of the time that it waited for
data (claim: at most .02), the GPU's memory, and the model FLOPs utilisation against the data sheet's peak. The ratio is
the share of the time that it did not wait. The last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.scenes import make_photos
from mail import addresses
from pipelines.stages.train import Train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vilt-b32")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--compile", default="yes", choices=["auto", "no", "yes", "required"])
    parser.add_argument("--folder", type=Path, help="where the data is made, and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("MLFLOW_TRACKING_URI", addresses.sqlite_uri(Path(temporary) / "mlflow.db"))
        store, masks = make_photos(options.folder or Path(temporary) / "data", options.images)
        begun = time.perf_counter()
        result = Train(
            preset=options.preset,
            pretrained="none",
            tokenizer="none",
            data=store,
            masks=masks,
            name="training",
            out=str(Path(temporary) / "run"),
            steps=options.steps,
            compile=options.compile,
            validation_expressions=0,
            checkpoint_every=options.steps,
            register=False,
        ).run()
        seconds = time.perf_counter() - begun
        laps = logged(result["run_id"], options.steps // 2)
    total = sum(lap["seconds"] for lap in laps)
    waiting = sum(lap["seconds"] * lap["waiting_for_data"] for lap in laps) / total
    report = {
        "benchmark": "training",
        "ratio": round(1 - waiting, 4),
        "preset": options.preset,
        "compile": options.compile,
        "expressions_per_second": round(sum(lap["seconds"] * lap["expressions_per_second"] for lap in laps) / total, 1),
        "waiting_for_data": round(waiting, 4),
        "gpu_memory_GiB": max((lap["gpu_memory_gb"] for lap in laps if "gpu_memory_gb" in lap), default=None),
        "mfu_of_the_data_sheet": max((lap["mfu"] for lap in laps if "mfu" in lap), default=None),
        "steps": options.steps,
        "seconds_with_start_and_end": round(seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores",
    }
    print(json.dumps(report))


def logged(run_id: str, after: int) -> list[dict[str, float]]:
    """What a run logged of its speed after a step, lap by lap."""
    from pipelines.registry.client import connect

    client = connect()
    laps: dict[int, dict[str, float]] = {}
    for key in ("seconds", "expressions_per_second", "waiting_for_data", "gpu_memory_gb", "mfu"):
        for metric in client.get_metric_history(run_id, f"speed/{key}"):
            laps.setdefault(metric.step, {})[key] = metric.value
    return [lap for step, lap in laps.items() if step > after]


if __name__ == "__main__":
    main()
