"""What digests and flushes cost a checkpoint: `python -m benchmarks.checkpoint [--preset vilt-b32]`.

Saved and loaded in turns as training does it (files flushed, an inventory with their digests, all compared when it is
loaded) and in the plain way (the same files, with nothing asked of the disk and nothing compared). Claim: at most 10 %
slower each. The last line is JSON.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mail.inventory import check_inventory
from mail.model import MailConfig, MailForReferringSegmentation, MailProcessor, find_preset, tokenizer_from_texts
from mail.model.folder import INVENTORIES
from mail.training import checkpoint
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vilt-b32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where checkpoints are written (default: the temporary folder)")
    options = parser.parse_args()

    config: MailConfig = find_preset(options.preset).config()
    torch.manual_seed(0)
    model = MailForReferringSegmentation(config)
    processor = MailProcessor.for_config(tokenizer_from_texts(["the red box on the left"]), config)
    optimizer = make_optimizer(model, TrainingSettings(steps=1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # now there are moments
    root = Path(tempfile.mkdtemp(prefix="mail-benchmark-", dir=options.folder))

    def save_safely(folder: Path) -> None:
        checkpoint.save_checkpoint(folder, 1, model, processor, optimizer, {}, {})

    def save_plainly(folder: Path) -> None:
        folder.mkdir()
        checkpoint.save_model(folder, model, processor, {})
        tensors = {
            f"{kind}/{name}": value.detach().contiguous()
            for name, parameter in model.named_parameters()
            for kind, value in optimizer.state.get(parameter, {}).items()
        }
        save_file(tensors, folder / "optimizer.safetensors")

    def load_plainly(folder: Path) -> None:
        MailForReferringSegmentation.from_pretrained(folder)
        for value in load_file(folder / "optimizer.safetensors").values():
            value.sum()  # the file is mapped: it is read here

    def load_safely(folder: Path) -> None:
        check_inventory(folder, INVENTORIES)
        load_plainly(folder)

    seconds: dict[str, list[float]] = {name: [] for name in ("save", "save_plain", "load", "load_plain")}
    try:
        for _ in range(options.rounds):
            for ending, save in (("", save_safely), ("_plain", save_plainly)):
                folder = root / f"checkpoint{ending}"
                shutil.rmtree(folder, ignore_errors=True)
                seconds[f"save{ending}"].append(timed(lambda: save(folder)))  # noqa: B023  # called at once
            for ending, load in (("", load_safely), ("_plain", load_plainly)):
                seconds[f"load{ending}"].append(timed(lambda: load(root / "checkpoint")))  # noqa: B023
        size = sum(p.stat().st_size for p in (root / "checkpoint").iterdir())
    finally:
        shutil.rmtree(root)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:11} {median[name]:6.2f} s   ({', '.join(f'{v:.2f}' for v in values)})")
    print(
        json.dumps(
            {
                "benchmark": "checkpoint",
                "ratio": round(median["save"] / median["save_plain"], 3),
                "load_ratio": round(median["load"] / median["load_plain"], 3),
                "bytes": size,
                "seconds": {name: round(value, 3) for name, value in median.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
