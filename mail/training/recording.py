"""Forward and backward pass of a training as CUDA graphs: a step is launched at once, not kernel by kernel.

At the real size a processor needs longer to launch the kernels of a step than a GPU to run them, and longer still
beside the input's threads (`docs/benchmarks.md`). A graph is recorded for each shape of a batch and has its input and
its results at fixed places in memory. What DistributedDataParallel does with a gradient comes after the graph, on the
stream on which it was made: the whole training has to be `beside` the default stream, on which nothing can be recorded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mail.model.modeling import MailOutput
from mail.pinned import ALLOCATING
from mail.training.step import TrainingBatch

Shape = tuple[tuple[str, torch.Size], ...]


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """On a GPU what is done inside is done on a stream of its own."""
    if device.type != "cuda":
        yield
        return
    outer, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(outer)
    with torch.cuda.stream(own):
        yield
    outer.wait_stream(own)


class Recorder:
    """Replaces a network's forward pass, in training and for shapes that were recorded, by a CUDA graph.

    Backward is the other half of the graph. The gradients that it leaves are overwritten by the next one.

    Args:
        model: on a GPU. bf16: autocast, within the graph.
    """

    def __init__(self, model: nn.Module, bf16: bool):
        self._model, self._written, self._bf16 = model, model.forward, bf16
        self._pool = torch.cuda.graph_pool_handle()  # one for all shapes: what a graph needs while it runs is shared
        self._graphs: dict[Shape, Any] = {}
        model.forward = self

    def record(self, part: TrainingBatch) -> None:
        """Records the passes of this shape; compiles first what is compiled when it is first called.

        Where the memory is too small for that, passes of this shape are launched as before.
        """
        if (shape := _shape(part.tensors)) in self._graphs:
            return
        one = _Pass(self._model, self._written, tuple(part.tensors), self._bf16)
        device = next(self._model.parameters()).device
        places = tuple(t.to(device, copy=True) for t in part.tensors.values())
        try:
            with ALLOCATING:
                self._graphs[shape] = torch.cuda.make_graphed_callables(
                    one, places, allow_unused_input=True, pool=self._pool
                )
        except torch.OutOfMemoryError:  # a recorded pass keeps its memory, while others need theirs
            self._graphs[shape] = None
        torch.cuda.empty_cache()  # what it took to warm up

    def close(self) -> None:
        """The network is as it was, and the memory is free."""
        del self._model.forward
        self._graphs.clear()

    def __call__(self, **tensors: Tensor) -> MailOutput:
        graph = self._graphs.get(_shape(tensors)) if self._model.training and torch.is_grad_enabled() else None
        if graph is None:
            return self._written(**tensors)
        loss, *terms = graph(*tensors.values())
        return MailOutput(loss=loss, losses=dict(zip(graph.terms, terms, strict=True)))


class _Pass(nn.Module):
    """A network with its tensors in an order, and its losses as its only results."""

    terms: tuple[str, ...]

    def __init__(self, model: nn.Module, forward: Any, names: tuple[str, ...], bf16: bool):
        super().__init__()
        self.model, self._written, self._names, self._bf16 = model, forward, names, bf16

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            output = self._written(**dict(zip(self._names, tensors, strict=True)))
        self.terms = tuple(output.losses)
        return output.loss, *(term.detach() for term in output.losses.values())


def _shape(tensors: dict[str, Tensor]) -> Shape:
    return tuple((name, tensor.shape) for name, tensor in tensors.items())
