"""Every figure that needs one GPU and no Ray, one after another: `python -m benchmarks.gpu [--out gpu.jsonl]`.

Runs each benchmark in a process of its own, goes on where one fails, and keeps the last line (JSON) of each in --out.
The last line of its own output is JSON: how many ran, and the ratio of each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

COMMANDS = (
    ("encoder_vs_vilt", "--batch", "32"),
    ("encoder_vs_vilt", "--batch", "32", "--compile"),
    ("train_step",),
    ("train_step", "--compile"),
    ("predict_latency", "--preset", "vilt-b32", "--proposer", "r50-fpn-v2"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here: run the benchmarks one by one for figures of the CPU")
    ratios: dict[str, float | None] = {}
    with open(options.out, "a") as out:
        for name, *arguments in COMMANDS:
            command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
            print("$", " ".join(command[1:]), flush=True)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            print(done.stdout, flush=True)
            shown = " ".join([name, *arguments])
            ratios[shown] = None
            if done.returncode == 0:
                result = json.loads(done.stdout.splitlines()[-1])
                ratios[shown] = result["ratio"]
                out.write(json.dumps({"command": shown, **result}) + "\n")
                out.flush()
    failed = [name for name, ratio in ratios.items() if ratio is None]
    print(json.dumps({"benchmark": "gpu", "ratio": ratios, "failed": failed, "device": torch.cuda.get_device_name()}))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
