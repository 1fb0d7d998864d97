"""What a step of a worker takes: time, memory."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mail.errors import UserError
from mail.training.cost import estimate, peak_flops
from mail.training.step import TrainingBatch


class Clock:
    """Where the time of a worker goes.

    Args:
        step_flops: operations of the network for one expression, forward and backward. bf16: their precision.
    """

    def __init__(self, step_flops: float = 0.0, bf16: bool = False) -> None:
        self._step_flops, self._bf16 = step_flops, bf16
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = self._expressions = 0

    def waits(self, batches: Iterable[list[TrainingBatch]]) -> Iterator[list[TrainingBatch]]:
        """Passes batches on and measures how long they are waited for."""
        stream = iter(batches)
        while True:
            before = time.perf_counter()
            parts = next(stream, None)
            self._waited += time.perf_counter() - before
            if parts is None:
                return
            yield parts

    def count(self, parts: list[TrainingBatch]) -> None:
        self._images += sum(len(p.tensors["pixel_values"]) for p in parts)
        self._expressions += sum(len(p.plan.rows) for p in parts)

    def skip(self) -> None:
        """Leaves the time since the last lap out (validation, checkpoints)."""
        self._start = time.perf_counter()

    def lap(self, device: torch.device, world: int) -> dict[str, float]:
        """Figures since the last lap, extrapolated to all workers."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        found = {
            "seconds": seconds,
            "expressions": self._expressions * world,
            "images_per_second": self._images * world / seconds,
            "expressions_per_second": self._expressions * world / seconds,
            "waiting_for_data": self._waited / seconds,
            "workers": world,
            # of the network as it is, without what is computed twice or padded
            "teraflops_per_worker": self._step_flops * self._expressions / seconds / 1e12,
        }
        if peak := peak_flops(device, self._bf16):
            found["mfu"] = self._step_flops * self._expressions / seconds / peak
        if device.type == "cuda":
            found["gpu_memory_gb"] = torch.cuda.max_memory_reserved(device) / 2**30
        self._start, self._waited, self._images, self._expressions = time.perf_counter(), 0.0, 0, 0
        return found


@contextlib.contextmanager
def memory_advice(config: Any, parts: list[TrainingBatch], bf16: bool) -> Iterator[None]:
    """Says what a step needs and what to lower where the GPU's memory is too small for it (UserError)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        most = max(len(p.plan.rows) for p in parts)
        raise UserError(
            f"the GPU's memory is too small for {most} expressions in one pass, which need about "
            f"{estimate(config, most, bf16).total / 2**30:.1f} GiB ({estimate(config, 1, bf16).total / 2**30:.1f} GiB "
            f"for one): lower --micro-batch-size (the result stays the same) or --model.max-instances. "
            f"{str(error).splitlines()[0]}"
        ) from error
