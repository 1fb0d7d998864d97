"""What digests and flushes cost a checkpoint: `python -m benchmarks.checkpoint [--preset vilt-b32]`.

In turns as training does it and in the plain way, the same files with nothing asked of the disk and nothing compared:

    save   what the training waits for
    put    into the run's folder: beside the training on Ray, else the training waits for this as well
    load   network and moments, every file compared meanwhile: from the disk, as after a machine was lost, and from the
           page cache (`load_again`), where a digest takes longer than the reading

The plain `put` is a copy; `put_plain_fsync` is the copy with a flush, for what the disk alone takes. Claim: `save` and
`load` at most 10 % slower, where a core is free for the digests. What all cores did for it together is told as well:
that does not depend on what else the machine does. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file

from mail.inventory import compared, flush_all
from mail.model import MailConfig, MailForReferringSegmentation, MailProcessor, find_preset, tokenizer_from_texts
from mail.model.folder import INVENTORIES
from mail.training import checkpoint
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of all cores together."""
    begun, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - spent


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

    here = fs.LocalFileSystem()

    def save(folder: Path) -> None:
        checkpoint.save_checkpoint(folder, 1, model, processor, optimizer, {}, {})

    def save_plain(folder: Path) -> None:
        folder.mkdir()
        checkpoint.save_model(folder, model, processor, {})
        tensors = {
            f"{kind}/{name}": value.detach().contiguous()
            for name, parameter in model.named_parameters()
            for kind, value in optimizer.state.get(parameter, {}).items()
        }
        save_file(tensors, folder / "optimizer.safetensors")

    def put_plain(folder: Path, to: Path) -> None:
        to.mkdir()
        fs.copy_files(str(folder), str(to), source_filesystem=here, destination_filesystem=here)

    def put_plain_fsync(folder: Path, to: Path) -> None:
        put_plain(folder, to)
        flush_all(to)

    def load_plain(folder: Path) -> None:
        MailForReferringSegmentation.from_pretrained(folder)
        for value in load_file(folder / "optimizer.safetensors").values():
            value.sum()  # the file is mapped: it is read here

    def load(folder: Path) -> None:
        with compared(folder, INVENTORIES):
            load_plain(folder)

    def forget(folder: Path) -> None:
        """The page cache keeps nothing of a folder."""
        os.sync()
        for path in folder.iterdir():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    names = ("save", "save_plain", "put", "put_plain", "put_plain_fsync")
    names += ("load", "load_plain", "load_again", "load_again_plain")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    cores: dict[str, list[float]] = {name: [] for name in names}
    written, plain, place, copy = (root / name for name in ("written", "plain", "place", "copy"))

    def measure(name: str, work: Callable[..., None], *folders: Path) -> None:
        os.sync()  # what is left to the disk is not this one's
        taken, spent = timed(lambda: work(*folders))
        seconds[name].append(taken)
        cores[name].append(spent)

    try:
        for number in range(options.rounds):
            for folder in (written, plain, place, copy):
                shutil.rmtree(folder, ignore_errors=True)
            # in turns, for the second one finds another page cache than the first
            saving = [("save_plain", save_plain, plain), ("save", save, written)]
            loading = [("load", load, place), ("load_plain", load_plain, place)]
            for one in saving[:: (-1) ** number]:
                measure(*one)
            measure("put_plain", put_plain, plain, copy)
            shutil.rmtree(copy)
            measure("put", lambda folder, to: checkpoint.put_checkpoint(folder, here, str(to)), written, place)
            measure("put_plain_fsync", put_plain_fsync, plain, copy)
            for one in loading[:: (-1) ** number]:
                forget(place)
                measure(*one)
            again = [("load_again", load, place), ("load_again_plain", load_plain, place)]
            for one in again[:: (-1) ** number]:
                measure(*one)
        size = sum(p.stat().st_size for p in place.iterdir())
    finally:
        shutil.rmtree(root)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        of_cores = statistics.median(cores[name])
        print(f"{name:16} {median[name]:6.2f} s, {of_cores:.2f} s of cores   ({', '.join(f'{v:.2f}' for v in values)})")
    print(
        json.dumps(
            {
                "benchmark": "checkpoint",
                "ratio": round(median["save"] / median["save_plain"], 3),
                "put_ratio": round(median["put"] / median["put_plain"], 3),
                "load_ratio": round(median["load"] / median["load_plain"], 3),
                "load_again_ratio": round(median["load_again"] / median["load_again_plain"], 3),
                "bytes": size,
                "seconds": {name: round(value, 3) for name, value in median.items()},
                "core_seconds": {name: round(statistics.median(values), 3) for name, values in cores.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
