"""The whole training step against what the device's matrix units give: `python -m benchmarks.train_step [--compile]`.

    python -m benchmarks.train_step --compile                  on a GPU: vilt-b32 at 480 and 640, vilt-b16 at 480, bf16
    python -m benchmarks.train_step --networks vilt-b32@480    on a CPU: fp32, a small batch, the same table

A step is what training does (`mail.training.step.train_step`): network, losses, backward, clipping, AdamW, while the
next batch is sent to the device. Its arithmetic is counted by the formula that is printed; its share of the rate of a
large matrix product, measured in the same run, is the model FLOPs utilisation. Claim: at least 0.45 on a GPU, where the
time of its kernels is listed as well. With --follow N the first N steps are taken in fp32 and in bf16, as it is written
and compiled, on the same batches: how far the losses of each are from those of fp32. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mail.data.epoch_plan import Batch
from mail.model import MailConfig, MailForReferringSegmentation, find_preset
from mail.training.compiling import Compiling, padded
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings
from mail.training.step import TrainingBatch, train_step
from pipelines.training.input import staged

FORMULA = (
    "FLOPs of a step = 3 x (2 x the multiply-adds of all matrix products and convolutions of the forward pass, counted "
    "by torch.utils.flop_counter on this batch); the encoder's among them = 3 x N x layers x (8 T d^2 + 4 T d f + "
    "4 T^2 d) for N expressions, T tokens, width d, feed-forward width f"
)
WORDS, PADDED_WORDS, EXPRESSIONS_PER_IMAGE = 20, 24, 3
SHOWN_MS = 0.05  # of a step: kernels that take longer are listed
KINDS = {  # of kernels, by what is in their names; the first that fits
    "sent meanwhile": ("HtoD",),
    "attention": ("sdpa", "fmha", "flash", "dot_do_o", "convert_dq"),
    "matrix products": ("nvjet", "gemm", "cutlass", "splitK", "cublas"),
    "convolutions": ("conv", "cudnn", "xmma", "wgrad", "dgrad"),
    "AdamW and clipping": ("multi_tensor", "lpnorm", "FusedAdam"),
    "fused by the compiler": ("triton",),
    "copies": ("copy", "Memcpy", "Memset"),
}


def make_batch(config: MailConfig, expressions: int, padded: int = PADDED_WORDS, seed: int = 0) -> TrainingBatch:
    """Random input as large as in training: all instance slots filled, 20 word pieces, 3 expressions an image."""
    random = np.random.default_rng(seed)
    images, slots, cells = -(-expressions // EXPRESSIONS_PER_IMAGE), config.max_instances, config.mask_size
    corners = np.sort(random.random((images, slots, 2, 2)), axis=2)
    tensors = {
        "pixel_values": random.integers(0, 256, (images, 3, config.image_size, config.image_size), np.uint8),
        "pixel_size": np.full((images, 2), config.image_size, np.int64),
        "instance_masks": random.integers(0, 256, (images, slots, cells, cells), np.uint8),
        "instance_boxes": corners.reshape(images, slots, 4).astype(np.float32),
        "instance_scores": random.random((images, slots), np.float32),
        "instance_labels": np.ones((images, slots), np.int64),
        "instance_valid": np.ones((images, slots), bool),
        "image_index": np.arange(expressions) // EXPRESSIONS_PER_IMAGE,
        "input_ids": random.integers(1000, config.vocab_size, (expressions, padded)),
        "attention_mask": np.tile(np.arange(padded) < WORDS, (expressions, 1)).astype(np.int64),
        "target_masks": random.integers(0, 256, (expressions, cells, cells), np.uint8),
        "instance_ious": random.random((expressions, slots), np.float32),
        "no_target": np.zeros(expressions, bool),
    }
    rows = np.arange(expressions)
    plan = Batch(0, 0, 1, 0, rows, tensors["image_index"].astype(np.int32), expressions)
    return TrainingBatch(plan, {name: torch.from_numpy(array) for name, array in tensors.items()})


def pinned(batch: TrainingBatch) -> TrainingBatch:
    """The same as a GPU fetches it fastest."""
    if not torch.cuda.is_available():
        return batch
    return TrainingBatch(batch.plan, {k: v.pin_memory() for k, v in batch.tensors.items()})


def seconds(run: Callable[[], Any], device: torch.device, runs: int) -> float:
    """Median time of a call, the device's work included."""
    times = []
    for _ in range(runs):
        synchronize(device)
        begun = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device) -> float:
    """Operations a second of a large matrix product, bf16 on a GPU and fp32 on a CPU."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * side**3 / seconds(lambda: a @ b, device, 20)


def encoder_flops(config: MailConfig, expressions: int) -> int:
    """By the closed form of `FORMULA`, forward and backward."""
    d, f, tokens = config.hidden_size, config.intermediate_size, WORDS + 1 + config.grid**2 + config.max_instances
    layer = 8 * tokens * d**2 + 4 * tokens * d * f + 4 * tokens**2 * d
    return 3 * expressions * config.num_hidden_layers * layer


def network_of(name: str) -> MailConfig:
    """`PRESET` or `PRESET@CANVAS`."""
    preset, _, side = name.partition("@")
    config = find_preset(preset).config()
    return MailConfig(**{**config.to_dict(), "image_size": int(side or config.image_size)})


def measure(name: str, expressions: int, runs: int, compiled: bool, device: torch.device) -> dict[str, Any]:
    """One network's row of the table."""
    config, bf16 = network_of(name), device.type == "cuda"
    torch.manual_seed(0)
    model = MailForReferringSegmentation(config).to(device).train()  # type: ignore[arg-type]
    settings = TrainingSettings(global_batch_size=expressions, learning_rate=1e-5)
    optimizer, batch = make_optimizer(model, settings), make_batch(config, expressions)
    batch = pinned(padded(batch) if compiled else batch)
    with FlopCounterMode(display=False) as counter, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        model(**make_batch(config, expressions, WORDS).to(device).tensors)
    flops = 3 * counter.get_total_flops()
    with (
        Compiling(model if compiled else None, print, required=True, bf16=bf16) as compiling,
        closing(staged(repeat(batch), 2, device)) as stream,
    ):
        take = partial(train_step, model, optimizer, settings=settings, device=device, bf16=bf16)

        def whole() -> torch.Tensor:
            return compiling.take([next(stream)], take)

        first = seconds(whole, device, 1)
        for _ in range(3):
            whole()
        # one after another, as in training: the next step is prepared while the GPU is busy with this one
        step = seconds(lambda: [whole() for _ in range(runs)], device, 3) / runs
        there = batch.to(device).tensors

        def forward() -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return model(**there).loss

        def both() -> None:
            optimizer.zero_grad(set_to_none=True)
            forward().backward()

        forward_seconds, both_seconds = seconds(forward, device, runs), seconds(both, device, runs)
        return {
            "network": name,
            "expressions": expressions,
            "expressions_per_second": round(expressions / step, 2),
            "step_ms": round(1000 * step, 2),
            "first_step_s": round(first, 1),
            "to_device_ms": round(1000 * seconds(lambda: batch.to(device), device, runs), 2),
            "forward_ms": round(1000 * forward_seconds, 2),
            "backward_ms": round(1000 * (both_seconds - forward_seconds), 2),
            "optimizer_ms": round(1000 * seconds(optimizer.step, device, runs), 2),
            "peak_GiB": round(torch.cuda.max_memory_reserved() / 2**30, 2) if device.type == "cuda" else None,
            "tera_flops": round(flops / 1e12, 4),
            "encoder_share_of_flops": round(encoder_flops(config, expressions) / flops, 3),
            "flops_per_second": flops / step,
            "kernels_ms": kernels(whole) if device.type == "cuda" else None,
        }


def kernels(step: Callable[[], Any], runs: int = 3) -> dict[str, float]:
    """Milliseconds of a step that a GPU is busy with kernels of each kind."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(runs):
            step()
        torch.cuda.synchronize()
    found = dict.fromkeys(["all", *KINDS, "others"], 0.0)
    for event in sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total):
        if (spent := event.self_device_time_total / 1000 / runs) > SHOWN_MS:
            print(f"  {spent:7.3f} ms in {event.count // runs:4d} of {event.key[:150]}")
        kind = next((kind for kind, marks in KINDS.items() if any(mark in event.key for mark in marks)), "others")
        found[kind] += spent
        found["all"] += spent if kind != "sent meanwhile" else 0
    return {kind: round(spent, 2) for kind, spent in found.items()}


def follow(name: str, expressions: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Losses of the first steps in bf16, as written and compiled, against those in fp32: largest relative distance."""
    config, settings = network_of(name), TrainingSettings(global_batch_size=expressions, steps=steps)
    batches = [pinned(padded(make_batch(config, expressions, seed=seed))) for seed in range(4)]

    def losses(bf16: bool, compiled: bool) -> np.ndarray:
        torch.manual_seed(0)
        model = MailForReferringSegmentation(config).to(device).train()  # type: ignore[arg-type]
        optimizer, found = make_optimizer(model, settings), []
        take = partial(train_step, model, optimizer, settings=settings, device=device, bf16=bf16)
        with Compiling(model if compiled else None, print, required=True, bf16=bf16) as compiling:
            for step, batch in enumerate(islice(batches * steps, steps)):
                batch.plan = replace(batch.plan, step=step)
                found.append(compiling.take([batch], take)[0])
            return torch.stack(found).cpu().numpy()

    exact = losses(bf16=False, compiled=False)
    apart = {way: losses(True, way == "compiled") / exact - 1 for way in ("eager", "compiled")}
    return {
        "fp32_first_and_last": [round(float(exact[0]), 4), round(float(exact[-1]), 4)],
        **{f"{way}_bf16_apart": round(float(np.abs(a).max()), 5) for way, a in apart.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vilt-b32@480", "vilt-b32@640", "vilt-b16@480"])
    parser.add_argument("--expressions", type=int, help="in a step (default: 64 on a GPU, 6 on a CPU)")
    parser.add_argument("--runs", type=int, help="steps that are timed (default: 20 on a GPU, 3 on a CPU)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network's parts")
    parser.add_argument("--follow", type=int, default=0, help="steps of the first network in fp32 and in bf16")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    expressions, runs = options.expressions or (64 if gpu else 6), options.runs or (20 if gpu else 3)
    print(FORMULA)
    rate = matmul_rate(device)
    print(f"a large matrix product: {rate / 1e12:.2f} TFLOP/s ({'bf16' if gpu else 'fp32'})")
    rows = []
    for name in options.networks:
        row = measure(name, expressions, runs, options.compile, device)
        row["mfu"] = round(row.pop("flops_per_second") / rate, 4)
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        torch.compiler.reset()  # what was compiled for one network is nothing to the next
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    followed = follow(options.networks[0], expressions, options.follow, device) if options.follow else None
    result = {
        "benchmark": "train_step",
        "ratio": min(row["mfu"] for row in rows),
        "matmul_tera_flops": round(rate / 1e12, 3),
        "rows": rows,
        "follow": followed,
        "compile": options.compile,
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
