"""Every figure that needs a GPU, in one command: `python -m benchmarks.gpu [--out gpu.jsonl]`.

    python -m benchmarks.gpu                  on a machine with a GPU: twelve minutes at most
    python -m benchmarks.gpu --tiny           the same parts with the smallest sizes, on any machine: that they run

Each part is a benchmark in a process of its own, with a limit; where one fails or takes too long the next is run. What
they print is passed on, the last line (JSON) of each is kept in --out with the seconds it took, and a table of the
figures comes last but one. The last line is JSON: the ratio of each part. Needs all that `pyproject.toml` names.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Part:
    """A benchmark, its limit in seconds, its arguments on a GPU and at the smallest sizes, and what is shown of it."""

    name: str
    module: str
    limit: int
    real: str
    tiny: str
    figures: tuple[str, ...]


TINY_LIMIT = 600  # seconds of a part: a slow machine, which does other things as well
PARTS = (  # the most important first: there may be no time for the last
    Part(
        "step",
        "train_step",
        240,
        "--compile --runs 10",
        "--networks tiny --expressions 3 --runs 1",
        ("step_ms", "first_step_s", "expressions_per_second", "mfu", "peak_GiB"),
    ),
    Part(
        "training",
        "training",
        300,
        "--steps 400 --images 64",
        "--preset tiny --steps 4 --images 24 --compile no",
        ("expressions_per_second", "waiting_for_data", "gpu_memory_GiB", "mfu_of_the_data_sheet"),
    ),
    Part(
        "prediction",
        "predict_latency",
        60,
        "--preset vilt-b32 --proposer r50-fpn-v2 --runs 7",
        "--preset tiny --proposer tiny --runs 1",
        ("one_ms", "proposals"),
    ),
    Part(
        "precompute",
        "precompute",
        90,
        "--brief --random r50-fpn-v2 --sides 480 640 --images 320 --rounds 1 --seconds 4",
        "--brief --random tiny --batch-size 4 --images 16 --rounds 1 --seconds 1",
        ("images_per_second",),
    ),
    Part("encoder", "encoder_vs_vilt", 40, "--batch 32", "--batch 1 --runs 1", ("their_seconds", "mail_seconds")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="*", choices=[part.name for part in PARTS], help="these parts alone")
    parser.add_argument(
        "--seconds", type=int, default=720, help="for all parts together; with --tiny each has a limit of its own"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        sys.exit("no GPU here: --tiny runs the parts with the smallest sizes, each benchmark alone measures this CPU")
    begun, results = time.monotonic(), []
    for part in PARTS:
        if options.only and part.name not in options.only:
            continue
        left = options.seconds - (time.monotonic() - begun)
        result = run(part, options.tiny, TINY_LIMIT if options.tiny else min(part.limit, left))
        results.append({"part": part.name, **result})
        with open(options.out, "a") as out:
            out.write(json.dumps(results[-1]) + "\n")
    print(table(results))
    failed = [r["part"] for r in results if "failed" in r]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    ratios = {r["part"]: r.get("ratio") for r in results}
    print(json.dumps({"benchmark": "gpu", "ratio": ratios, "failed": failed, "device": device}))
    if failed:
        sys.exit(1)


def run(part: Part, tiny: bool, limit: float) -> dict[str, Any]:
    """What a part says of itself, with `seconds`; or why it `failed`."""
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *(part.tiny if tiny else part.real).split()]
    print("$", " ".join(command[1:]), flush=True)
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=max(limit, 0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            output, _ = process.communicate()
    seconds = round(time.monotonic() - begun, 1)
    print(output, flush=True)
    if process.returncode:
        why = f"more than {limit:.1f} s" if process.returncode == -signal.SIGKILL else f"code {process.returncode}"
        return {"failed": why, "seconds": seconds}
    return {**json.loads(output.splitlines()[-1]), "seconds": seconds}


def table(results: list[dict[str, Any]]) -> str:
    """The figures of each part, a line for each network that it has."""
    lines = []
    for result in results:
        wanted = next(part.figures for part in PARTS if part.name == result["part"])
        for row in result.get("rows", [result]):
            shown = [f"{name} {row[name]}" for name in ("network", "ratio", *wanted) if name in row]
            lines.append(f"{result['part']}: {result.get('failed') or ', '.join(shown)} ({result['seconds']} s)")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
