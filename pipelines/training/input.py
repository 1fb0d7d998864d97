"""Ray carries the training input: CPU tasks build the batches of the coming steps, the trainer takes them in order.

Each train worker keeps a few tasks ahead of itself. A task reads, decodes, rasterises and collates a few steps
(`mail.training.input`) and leaves their arrays in the object store; a thread of the trainer takes the oldest task's,
copies them out a batch at a time, and asks for the next task. So what is in flight is bounded, the order is the plan's,
and resuming is starting at another step. Ray builds again what a killed process or a lost node takes away.

The copy is the only one on the way. For a GPU it is to pinned memory, from where the same thread has the GPU fetch it
on a stream of its own, while the network computes on the batches before.
"""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

from mail.data.epoch_plan import Batch, EpochPlan
from mail.data.rehearsal import RehearsedPlan
from mail.pinned import ALLOCATING, copy_for
from mail.training.input import TrainingInput
from mail.training.step import TrainingBatch

# About what a task makes: large enough to hide Ray's cost per task, and that the steps' images share row groups; small
# enough to start soon.
TASK_BYTES = 64 * 2**20
TASK_STEPS = 16  # at most
STORE_BYTES = 256 * 2**20  # object store memory in use per worker, at least
END_SECONDS = 5.0  # for tasks that nobody waits for any more to end by themselves
CPU = torch.device("cpu")

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How the batches of one train worker travel.

    Attributes:
        steps_per_task: steps that one task builds; None chooses by the size of a batch.
        cpus: CPUs for this worker's tasks; each takes one, or all of them where that is less than one. Together with
            the trainers' own they must fit into the cluster: trainers that wait for each other must not wait for CPUs.
        prefetch: batches that wait, as tensors, for the trainer.
        store_bytes: object store memory that this worker's batches may take.
    """

    steps_per_task: int | None = None
    cpus: float = 1.0
    prefetch: int = 4
    store_bytes: int = STORE_BYTES

    def in_flight(self, step_bytes: int) -> tuple[int, int]:
        """Tasks that are asked for and not yet taken, and steps of each, for steps of so many bytes.

        One task more than there are CPUs, so that none of them idles until the trainer comes for the oldest. The task
        whose batches are being taken is in the object store besides.
        """
        tasks = int(max(1.0, self.cpus)) + 1
        room = max(1, self.store_bytes // step_bytes)
        steps = self.steps_per_task or max(1, min(TASK_STEPS, TASK_BYTES // step_bytes, room // (tasks + 1)))
        return max(1, min(tasks, room // steps - 1)), steps


def ray_batches(
    shared: Any,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    micro: int | None = None,
    transport: Transport | None = None,
    device: torch.device = CPU,
) -> Generator[TrainingBatch, None, None]:
    """The batches of worker `rank` of `world` for steps `start` to `stop`, built by Ray tasks, in order, on `device`.

    The same tensors as `mail.training.input.batches`, and an error of a task is the one that `batches` would raise.
    Closing the iterator ends the tasks.

    Args:
        shared: object reference of (TrainingInput, EpochPlan), which task processes open once.
    """
    import ray
    from ray.exceptions import RayTaskError

    transport = transport or Transport()
    source, plan = ray.get(shared)
    tasks, steps = transport.in_flight(_step_bytes(source, plan, world))
    # Not in the trainers' placement group, which has no CPU to spare: on any node, the trainer's own first.
    build = ray.remote(_build).options(num_cpus=min(1.0, max(transport.cpus, 0.1)), scheduling_strategy="DEFAULT")
    asked: deque[tuple[list[Batch], Any]] = deque()  # the oldest first
    firsts: Iterator[int] = iter(range(start, stop, steps))

    def ask() -> None:
        while len(asked) < tasks and (first := next(firsts, None)) is not None:
            wanted = list(plan.batches(first, min(first + steps, stop), rank, world, micro))
            # in a list, or every task would be sent the value
            asked.append((wanted, build.remote([shared], wanted)))

    def carried() -> Iterator[TrainingBatch]:
        ask()
        while asked:
            try:
                found = ray.get(asked[0][1])
            except RayTaskError as error:
                raise error.cause from error
            wanted, _ = asked.popleft()
            ask()
            for batch in wanted:
                # Copied, or one batch that is kept would keep the whole task's result in the object store, and writing
                # to it would end in a segmentation fault. The result goes with its last batch.
                yield TrainingBatch(batch, {k: copy_for(v, device) for k, v in found.pop(0).items()})

    batches = staged(carried(), transport.prefetch, device)
    try:
        for batch in batches:  # noqa: UP028  # `yield from` would close them first, while the thread waits for a task
            yield batch
    finally:
        firsts = iter(())
        # Ray aborts this process where a task ends just when it is cancelled ("Tried to complete task that was not
        # pending"), so only those are cancelled that do not end by themselves
        if left := [built for _, built in list(asked)]:
            _, hanging = ray.wait(left, num_returns=len(left), timeout=END_SECONDS, fetch_local=False)
            for built in hanging:
                ray.cancel(built, force=True)  # a process that hangs in a read hears nothing else
        batches.close()


def _build(shared: list[Any], wanted: list[Batch]) -> list[dict[str, np.ndarray]]:
    """Runs in a task: the arrays of each batch, which travel as they lie in memory."""
    torch.set_num_threads(1)  # a task has one CPU
    return [{k: v.numpy() for k, v in batch.tensors.items()} for batch in _opened(*shared).build(wanted)]


@lru_cache(maxsize=1)  # per task process: open files and tokenizer live on
def _opened(shared: Any) -> TrainingInput:
    import ray

    return ray.get(shared)[0]


def _step_bytes(source: TrainingInput, plan: EpochPlan | RehearsedPlan, world: int) -> int:
    """About what a worker's part of a step takes."""
    processor = source.processor
    cells = processor.mask_size**2
    image = 3 * processor.image_size**2 + processor.max_instances * cells
    expressions = -(-plan.global_batch_size // world)
    return int(expressions * (image / min(plan.piece, expressions) + cells))


def staged(batches: Iterator[TrainingBatch], count: int, device: torch.device) -> Generator[TrainingBatch, None, None]:
    """Takes batches in a thread, `count` ahead, and has a GPU fetch them meanwhile."""
    if device.type != "cuda":
        return ahead(batches, count)
    side = torch.cuda.Stream(device)

    def sent() -> Iterator[tuple[TrainingBatch, torch.cuda.Event]]:
        for batch in batches:
            held = {k: v if v.is_pinned() else copy_for(v.numpy(), device) for k, v in batch.tensors.items()}
            with ALLOCATING, torch.cuda.stream(side):
                there = {k: v.to(device, non_blocking=True) for k, v in held.items()}
                arrived = side.record_event()
            yield TrainingBatch(batch.plan, there), arrived

    def received() -> Generator[TrainingBatch, None, None]:
        with contextlib.closing(ahead(sent(), count)) as arriving:
            for batch, arrived in arriving:
                current = torch.cuda.current_stream(device)
                current.wait_event(arrived)
                for tensor in batch.tensors.values():
                    tensor.record_stream(current)  # or its memory would be the next batch's while it is still read
                yield batch

    return received()


def ahead(items: Generator[Item, None, None] | Iterator[Item], count: int) -> Generator[Item, None, None]:
    """Takes from an iterator in a thread, `count` items ahead; an error comes out where the item would."""
    end: Any = object()
    with ThreadPoolExecutor(1, "training-input") as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
