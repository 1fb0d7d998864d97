"""What every train worker runs: the training loop, from the first batch to the last checkpoint.

Ray Train starts it on 1 to N workers. All of them see the same global batches (`mail.data.epoch_plan`) and take the
same steps; rank 0 writes.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mail.data import files
from mail.errors import UserError
from mail.model import MailConfig, MailForReferringSegmentation
from mail.training.checkpoint import load_optimizer, save_checkpoint
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings
from mail.training.step import TrainingBatch, by_step, records, train_step
from mail.training.validation import Validation, validate
from pipelines.training_input import Transport, ray_batches


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver gives to every worker.

    Attributes:
        shared: object reference of (TrainingInput, EpochPlan).
        log: actor that takes what is to be logged (`pipelines.train_progress`).
        network: the network's configuration. pretrained: ViLT weights to begin with.
        start_from: address of a checkpoint of an earlier start of this run.
        validation: what to validate on, None to leave it out.
        micro_batch_size: expressions in one forward pass at most.
        bf16: autocast; None: where the GPU has it.
        checkpoint_every, log_every: in steps. threads: torch threads of a worker without GPU.
        config, lineage: saved with every checkpoint.
    """

    shared: Any
    log: Any
    settings: TrainingSettings
    network: dict[str, Any]
    pretrained: str | None
    start_from: str | None
    validation: Validation | None
    micro_batch_size: int | None
    bf16: bool | None
    checkpoint_every: int
    log_every: int
    threads: int
    transport: Transport
    config: dict[str, Any]
    lineage: dict[str, Any]


def train_worker(values: dict[str, Job]) -> None:
    """Trains from the newest checkpoint, or from the beginning, to the last step."""
    import ray
    import ray.train
    from ray.train.torch import get_device, prepare_model

    job = values["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    bf16 = job.bf16 if job.bf16 is not None else device.type == "cuda" and torch.cuda.is_bf16_supported()
    settings = job.settings
    source, _ = ray.get(job.shared)

    model, optimizer, start = _begin(job, device)
    wrapped = prepare_model(model)
    wrapped.train()
    batches = ray_batches(job.shared, start, settings.steps, rank, world, job.micro_batch_size, job.transport)
    clock = Clock()
    results: list[torch.Tensor] = []
    with contextlib.closing(batches):
        for parts in clock.waits(by_step(batches)):
            done = parts[0].plan.step + 1
            with _out_of_memory(parts):
                results.append(
                    train_step(wrapped, optimizer, parts, settings, rank=rank, world=world, device=device, bf16=bf16)
                )
            clock.count(parts)
            saves = done % job.checkpoint_every == 0 or done == settings.steps
            if saves or done % job.log_every == 0 or done == start + 1:
                found = records(done - len(results), results, settings, world)
                results = []
                if rank == 0:
                    job.log.steps.remote(found, clock.lap(device, world))
            if saves:
                if job.validation is not None:
                    scores = validate(model, source, job.validation, rank, world, device)
                    if rank == 0:
                        job.log.validation.remote(done, scores)
                _report(job, done, rank, model, source.processor, optimizer)
                clock.skip()


def _begin(job: Job, device: torch.device) -> tuple[MailForReferringSegmentation, torch.optim.Optimizer, int]:
    """Network, optimizer and first step: of this attempt's newest checkpoint, of an earlier start's, or new."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None and job.start_from is not None:
        filesystem, path = files.resolve(job.start_from)
        checkpoint = ray.train.Checkpoint(path, filesystem)
    if checkpoint is None:
        torch.manual_seed(job.settings.seed)
        model = MailForReferringSegmentation(MailConfig(**job.network))
        if job.pretrained is not None:
            from mail.model.vilt_weights import load_vilt

            load_vilt(model, job.pretrained)
        model.to(device)  # type: ignore[arg-type]
        return model, make_optimizer(model, job.settings), 0
    with checkpoint.as_directory() as folder:
        model = MailForReferringSegmentation.from_pretrained(folder)
        model.to(device)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, job.settings)
        return model, optimizer, load_optimizer(Path(folder), model, optimizer)


def _report(job: Job, step: int, rank: int, model: Any, processor: Any, optimizer: torch.optim.Optimizer) -> None:
    """Rank 0 saves a checkpoint and uploads it in the background; all ranks meet here."""
    import ray.train
    from ray.train import CheckpointUploadMode

    checkpoint = None
    if rank == 0:
        folder = tempfile.mkdtemp(prefix="mail-checkpoint-")  # Ray deletes it after the upload
        save_checkpoint(Path(folder), step, model, processor, optimizer, job.config, job.lineage)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(
        {"step": step},
        checkpoint,
        checkpoint_dir_name=f"step-{step:07d}",
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )


class Clock:
    """Where the time of a worker goes."""

    def __init__(self) -> None:
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
            "images_per_second": self._images * world / seconds,
            "expressions_per_second": self._expressions * world / seconds,
            "waiting_for_data": self._waited / seconds,
        }
        if device.type == "cuda":
            found["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
        self._start, self._waited, self._images, self._expressions = time.perf_counter(), 0.0, 0, 0
        return found


@contextlib.contextmanager
def _out_of_memory(parts: list[TrainingBatch]) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        most = max(len(p.plan.rows) for p in parts)
        raise UserError(
            f"the GPU's memory is too small for {most} expressions in one pass: lower --micro-batch-size (the result "
            f"stays the same) or --model.max-instances. {str(error).splitlines()[0]}"
        ) from error
