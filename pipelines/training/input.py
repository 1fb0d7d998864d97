"""Ray Data carries the training input: CPU tasks build batches, the trainer takes them ready for the device.

Each train worker streams its own pipeline: step numbers -> tasks that read, decode, rasterise and collate a few steps
each (`mail.training.input`) -> blocks of uint8 arrays -> a few batches ahead of the trainer. The tasks work out from
the plan which rows they need, so nothing but step numbers is listed up front, and what is in flight is bounded.
"""

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mail.data.epoch_plan import Batch, EpochPlan
from mail.training.input import TrainingInput
from mail.training.step import TrainingBatch

TASK_BYTES = 24 * 2**20  # about what a task makes: large enough to hide Ray's cost per task, small enough to start soon
BLOCK_BYTES = 6 * 2**20  # batches of a task travel together, so many bytes: each block costs the trainer milliseconds
TASK_BLOCKS = 64  # blocks that a task may make before the loop has looked; with Ray's own 2 the loop sets the speed
TASKS_PER_PIPELINE = 256  # steps are listed in pipelines of at most so many tasks
STORE_BYTES = 256 * 2**20  # object store memory in use per worker
# between two looks of Ray Data's scheduler at what its tasks have done: while batches wait, and while the trainer does
LOOP_SECONDS, HURRIED_LOOP_SECONDS = 0.05, 0.005

_LAYOUT = pa.schema([("head", pa.string()), ("data", pa.large_binary())])
_inputs: dict[Any, tuple[TrainingInput, EpochPlan]] = {}  # per task process: open files and tokenizer live on
_waiting: dict[str, queue.Queue] = {}  # per trainer process: the batches of each stream that wait for the trainer


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
    cpus: float | None = None
    prefetch: int = 4
    store_bytes: int = STORE_BYTES


def ray_batches(
    shared: Any,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    micro: int | None = None,
    transport: Transport | None = None,
) -> Generator[TrainingBatch, None, None]:
    """The batches of worker `rank` of `world` for steps `start` to `stop`, built by Ray Data tasks, in order.

    The same tensors as `mail.training.input.batches`. Closing the iterator ends the tasks.

    Args:
        shared: object reference of (TrainingInput, EpochPlan); tasks get the plan's arrays without a copy.
    """
    import ray

    transport = transport or Transport()
    source, plan = ray.get(shared)
    per_task = transport.steps_per_task or _steps_per_task(source, plan, world)
    waiting: queue.Queue = queue.Queue(transport.prefetch)
    stream = uuid.uuid4().hex
    _waiting[stream] = waiting

    def pipelines() -> Generator[TrainingBatch, None, None]:
        segment = per_task * TASKS_PER_PIPELINE
        for first in range(start, stop, segment):
            last = min(first + segment, stop)
            yield from _pipeline(shared, first, last, per_task, rank, world, micro, transport, stream)

    try:
        yield from ahead(pipelines, waiting)
    finally:
        del _waiting[stream]


def _pipeline(
    shared: Any,
    start: int,
    stop: int,
    per_task: int,
    rank: int,
    world: int,
    micro: int | None,
    transport: Transport,
    stream: str,
) -> Generator[TrainingBatch, None, None]:
    import ray
    from ray.data import DataContext, ExecutionResources

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    cpus = None if transport.cpus is None else max(transport.cpus, 0.1)
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _unhurried(stream, cpus)]
    context._max_num_blocks_in_streaming_gen_buffer = TASK_BLOCKS
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        cpu=cpus, object_store_memory=transport.store_bytes
    )
    tasks = -(-(stop - start) // per_task)

    def build(block: pa.Table) -> Iterator[pa.Table]:
        for number in block["id"].to_pylist():
            first = start + number * per_task
            yield from _build(shared, first, min(first + per_task, stop), rank, world, micro)

    with DataContext.current(context):  # a dataset keeps the context that it was made in
        # A block for each task, made here: a range, or tables, would take a task of their own for each number, which
        # asks for a whole CPU. Beside an elastic trainer less than one is free, and they would wait for ever.
        numbers = [{"id": number} for number in range(tasks)]
        data = ray.data.from_items(numbers, override_num_blocks=tasks).map_batches(
            build,
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=min(1.0, transport.cpus) if transport.cpus else 1.0,
        )
    for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        for row in range(len(block)):
            yield unpack(block["head"][row].as_py(), block["data"][row].as_buffer())


def _unhurried(stream: str, cpus: float | None) -> type:
    """A callback that slows Ray Data's scheduling loop down, and gives the worker's input the CPUs that are its own.

    The loop runs in the trainer's own process. While the batches that wait are not taken, which is how it should be,
    the loop has nothing to wait for and turns without a pause: half a core that the training step then lacks.
    It pauses, and only shortly while the trainer of `stream` waits.

    Ray would share what the trainers leave of each node between the inputs of all workers, in whole CPUs: with more
    workers than a node has free CPUs, or with half a CPU free, nothing is left. An input that owns nothing builds one
    batch after another, each only once the trainer waits for it.
    """
    from ray.data import ExecutionResources
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class OwnShare(ClusterAutoscaler):
        """Asks for no machines either: each input lives on what the trainers' machines have besides."""

        def try_trigger_scaling(self) -> None:
            pass

        def on_executor_shutdown(self) -> None:
            pass

        def get_total_resources(self) -> ExecutionResources:
            return ExecutionResources.for_limits(cpu=cpus, gpu=0)

    class Unhurried(ExecutionCallback):
        def before_execution_starts(self, executor: Any) -> None:
            if cpus is not None:
                executor._cluster_autoscaler.on_executor_shutdown()  # takes its request back
                executor._cluster_autoscaler = OwnShare()

        def on_execution_step(self, executor: Any) -> None:
            _pause(stream)

    return Unhurried


def _pause(stream: str) -> None:
    # by name, for the callback travels to the tasks with its context, and a queue cannot
    waiting = _waiting.get(stream)
    time.sleep(HURRIED_LOOP_SECONDS if waiting is not None and waiting.empty() else LOOP_SECONDS)


def _build(shared: Any, first: int, last: int, rank: int, world: int, micro: int | None) -> Iterator[pa.Table]:
    """Runs in a task: one row per batch."""
    import ray

    torch.set_num_threads(1)  # a task has one CPU
    key = shared.hex()
    if key not in _inputs:
        _inputs.clear()
        _inputs[key] = ray.get(shared)
    source, plan = _inputs[key]
    yield from in_blocks(map(pack, source.build(list(plan.batches(first, last, rank, world, micro)))))


def in_blocks(packed: Iterable[tuple[str, bytes]], size: int = BLOCK_BYTES) -> Iterator[pa.Table]:
    """Tables of packed batches, in order, one row per batch; a table ends with the batch that fills `size` bytes."""
    rows: list[tuple[str, bytes]] = []

    def table() -> pa.Table:
        heads, data = zip(*rows, strict=True)
        return pa.table({"head": heads, "data": pa.array(data, pa.large_binary())}, _LAYOUT)

    for row in packed:
        rows.append(row)
        if sum(len(data) for _, data in rows) >= size:
            yield table()
            rows.clear()
    if rows:
        yield table()


def pack(batch: TrainingBatch) -> tuple[str, bytes]:
    """A batch as a header and the bytes of all its arrays, one after another."""
    arrays = {k: v.numpy() for k, v in batch.tensors.items()}
    plan = batch.plan
    arrays |= {"plan.rows": plan.rows, "plan.images": plan.images}
    layout = [(k, a.dtype.str, a.shape) for k, a in arrays.items()]
    numbers = [plan.step, plan.part, plan.parts, plan.epoch, plan.total]
    return json.dumps([numbers, layout]), b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())


def unpack(head: str, data: pa.Buffer) -> TrainingBatch:
    """The batch of `pack`; its tensors own their memory."""
    (step, part, parts, epoch, total), layout = json.loads(head)
    arrays, offset = {}, 0
    for key, dtype, shape in layout:
        count = int(np.prod(shape))
        arrays[key] = np.frombuffer(data, dtype, count, offset).reshape(shape).copy()
        offset += arrays[key].nbytes
    rows, images = arrays.pop("plan.rows"), arrays.pop("plan.images")
    tensors = {k: torch.from_numpy(a) for k, a in arrays.items()}
    return TrainingBatch(Batch(step, part, parts, epoch, rows, images, total), tensors)


def _steps_per_task(source: TrainingInput, plan: EpochPlan, world: int) -> int:
    processor = source.processor
    cells = processor.mask_size**2
    image = 3 * processor.image_size**2 + processor.max_instances * cells
    expressions = -(-plan.global_batch_size // world)
    step = expressions * (image / min(plan.piece, expressions) + cells)
    return max(1, min(16, int(TASK_BYTES / step)))


def ahead(make: Callable[[], Iterator[TrainingBatch]], waiting: queue.Queue) -> Generator[TrainingBatch, None, None]:
    """Runs an iterator in a thread, as far ahead as `waiting` holds; an error comes out where the next item would."""
    ended = threading.Event()

    def put(item: Any) -> bool:
        while not ended.is_set():
            try:
                waiting.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="training-input", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        thread.join(10)
