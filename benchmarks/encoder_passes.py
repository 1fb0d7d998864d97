"""Forward and backward passes of two encoders in turns: what `encoder_vs_vilt` and `encoder_vs_beit3` time."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Pass = Callable[[], Tensor]


def with_and_without_padding(measure: Callable[[bool], dict]) -> dict:
    """What is measured of padded input, and of input without padding under names that say so."""
    return measure(True) | {f"{key}_without_padding": value for key, value in measure(False).items()}


def in_turns(
    theirs: Pass, ours: Pass, networks: Sequence[nn.Module], runs: int, device: torch.device, compiled: bool
) -> dict:
    """Medians of paired times; bf16 autocast on a GPU, fp32 on a CPU.

    Args:
        theirs, ours: forward passes. networks: both, whose gradients are dropped before each pass.
        compiled: whether both passes are.
    """
    if compiled:
        theirs, ours = torch.compile(theirs), torch.compile(ours)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def seconds(forward: Pass) -> float:
        for network in networks:
            network.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with bf16:
            loss = forward().float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    for forward in (theirs, ours, theirs, ours):  # warm-up
        seconds(forward)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(runs)]
    return {
        "ratio": round(statistics.median(t / o for t, o in pairs), 3),
        "their_seconds": round(statistics.median(t for t, _ in pairs), 4),
        "mail_seconds": round(statistics.median(o for _, o in pairs), 4),
    }


def on(device: torch.device, batch: int, compiled: bool) -> dict:
    """Where it was measured, for the last line."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "precision": "bf16" if gpu else "fp32",
        "batch": batch,
        "compile": compiled,
    }
