"""The training loop, from the first batch to the last checkpoint, and the two places where it runs.

`on_ray` is what Ray Train starts on 1 to N workers; `here` runs in the calling process without any Ray (`--workers 0`).
All workers see the same global batches (`mail.data.epoch_plan`) and take the same steps; rank 0 writes.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from mail.data import files
from mail.data.epoch_plan import EpochPlan
from mail.data.filling import begun
from mail.data.rehearsal import RehearsedPlan
from mail.training.checkpoint import put_checkpoint, save_checkpoint
from mail.training.compiling import Compiling, is_compiled
from mail.training.early_stop import is_over
from mail.training.going_on import load_checkpoint, load_newest
from mail.training.input import TrainingInput, batches
from mail.training.network import Beginning, begin
from mail.training.recording import beside
from mail.training.settings import TrainingSettings
from mail.training.step import TrainingBatch, by_step, check_finite, records, train_step
from mail.training.validation import Validation, sample_overlays, validate
from pipelines.claiming.claim import Ticket
from pipelines.ending import requested
from pipelines.terminal import say
from pipelines.training.clock import Clock, memory_advice
from pipelines.training.config import TrainConfig
from pipelines.training.input import Transport, ray_batches, staged
from pipelines.training.overlays import Overlays
from pipelines.training.progress import remote_ending, remote_put

Batches = Generator[TrainingBatch, None, None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What there is to train, the same for every worker.

    Attributes:
        options: of the training, as given.
        settings: the recipe. network: the network's configuration. pretrained: ViLT weights to begin with.
        parent: folder of the model to go on from. patience: as of `mail.training.early_stop`.
        checkpoints: folder of the checkpoints of all starts; the newest complete one is where to go on.
        validation: what to validate on, None to leave it out.
        bf16: autocast; None: where the GPU has it.
        checkpoint_every: in steps. overlays: folder for pictures of answers. overlay_every: validations from
            one set of them to the next, 0 for none. threads: torch threads of a worker without GPU.
        step_flops: of an expression, forward and backward.
        config, lineage: saved with every checkpoint.
        claim: on the run's folder, without which nothing more is written.
    """

    options: TrainConfig
    settings: TrainingSettings
    network: dict[str, Any]
    pretrained: str | None
    parent: str | None
    patience: int
    checkpoints: str
    validation: Validation | None
    bf16: bool | None
    checkpoint_every: int
    overlays: str
    overlay_every: int
    threads: int
    step_flops: float
    config: dict[str, Any]
    lineage: dict[str, Any]
    claim: Ticket


@dataclass(kw_only=True)
class Place:
    """Where the loop runs, as one of `world` workers.

    Attributes:
        resume: what is made of the folder of the checkpoint to go on from, None where there is none; all ranks meet.
        wrap: makes the network's gradients those of all workers.
        batches: the worker's input from a step on.
        report: takes the step and, on rank 0, a folder with a checkpoint, which it owns from then on; all ranks meet.
        leaving: whether a machine of the run has been told that it goes soon, the same on all ranks; they meet.
        ending: whether the run is asked to end here, the same on all ranks; they meet.
        tell: takes an event to be said and logged, its kind and its values; does not keep its caller waiting.
    """

    rank: int = 0
    world: int = 1
    device: torch.device
    resume: Callable[[Callable[[Path], Beginning]], Beginning | None]
    wrap: Callable[[nn.Module], nn.Module]
    batches: Callable[[int], Batches]
    report: Callable[[int, Path | None], None]
    leaving: Callable[[], bool] = lambda: False
    ending: Callable[[], bool] = lambda: False
    tell: Callable[..., None]


def train(job: Job, source: TrainingInput, place: Place) -> None:
    """Trains to the last step of the recipe, or to a checkpoint where the run is asked to end."""
    disable_progress_bar()  # of loading and saving weights
    settings, rank, world, device = job.settings, place.rank, place.world, place.device
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    bf16 = job.bf16 if job.bf16 is not None else device.type == "cuda" and torch.cuda.is_bf16_supported()
    start_from = partial(begin, settings, job.network, job.pretrained, job.parent, device)
    model, optimizer, start, curves = place.resume(start_from) or start_from(None)
    if rank == 0:
        place.tell("begun", start, world, curves)
    if is_over(curves, job.patience, job.checkpoint_every):  # a driver was killed before it could export
        return
    wrapped = place.wrap(model).train()
    compiled = model if is_compiled(job.options.compile, settings.steps - start, device) else None
    take = partial(train_step, wrapped, optimizer, settings=settings, rank=rank, world=world, device=device, bf16=bf16)
    clock, results, warned = Clock(job.step_flops, bf16), list[torch.Tensor](), False
    note = partial(place.tell, "note") if rank == 0 else (lambda line: None)
    with (
        contextlib.closing(place.batches(start)) as stream,
        Compiling(compiled, note, required=job.options.compile == "required", bf16=bf16) as compiling,
    ):
        for parts in clock.waits(by_step(stream)):
            if rank == 0:
                job.claim.alive()
            done = parts[0].plan.step + 1
            with memory_advice(model.config, parts, bf16):
                results.append(compiling.take(parts, take))
            clock.count(parts)
            ends = done == settings.steps
            saves = done % job.checkpoint_every == 0 or ends
            laps = saves or done % job.options.log_every == 0 or done == start + 1
            halts = not ends and (laps or world == 1) and place.ending()
            if laps or halts:
                found = records(done - len(results), results, settings, world)
                results = []
                lap = {"step": done, "time": time.time(), **clock.lap(device, world)}
                curves.add("train", [{**r, "time": lap["time"]} for r in found])
                curves.add("speed", [lap])
                if rank == 0:
                    place.tell("steps", [{**r, "time": lap["time"]} for r in found], lap)
                if not warned and not ends and place.leaving():  # a checkpoint before the machine goes
                    warned = saves = True
            if saves or halts:
                check_finite(model, done)
                scores = None
                if saves and job.validation is not None:
                    scores = validate(model, source, job.validation, rank, world, device)
                    record = {"step": done, "time": time.time(), **scores}
                    curves.add("validation", [record])
                    halts = halts or is_over(curves, job.patience, job.checkpoint_every)
                    if rank == 0:
                        place.tell("validation", record)
                        if _shows(job, done):
                            _show(job, model, source, done, place)
                folder = None
                if rank == 0:
                    folder = Path(tempfile.mkdtemp(prefix="mail-checkpoint-"))
                    with begun(folder):
                        save_checkpoint(
                            *(folder, done, model, source.processor, optimizer, job.config, job.lineage),
                            curves=curves,
                            scores=scores,
                        )
                        job.claim.check()
                place.report(done, folder)
                if rank == 0:
                    place.tell("saved", done)
                if halts:
                    return
                clock.skip()


def _shows(job: Job, step: int) -> bool:
    """Whether a step's validation is one of those with pictures; the last one is."""
    every = job.checkpoint_every * job.overlay_every
    return every > 0 and (step % every == 0 or step == job.settings.steps)


def _show(job: Job, model: nn.Module, source: TrainingInput, step: int, place: Place) -> None:
    assert job.validation is not None
    pictures = sample_overlays(model, source, job.validation, place.device)
    job.claim.check()
    try:
        Overlays(job.overlays).save(step, pictures)
    except OSError as error:  # pictures are not worth a training
        say(f"no pictures of step {step}: {error}")
    else:
        place.tell("overlays", step)


def on_ray(job: Any, shared: Any, mailbox: Any) -> None:
    """What a Ray Train worker runs.

    Args:
        job: object reference of (Job, Transport). shared: of (TrainingInput, EpochPlan).
        mailbox: the actor that takes what is to be logged.
    """
    import ray
    import ray.train
    from ray.train import Checkpoint, CheckpointUploadMode
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device, prepare_model

    job, transport = ray.get(job)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    source, _ = ray.get(shared)
    micro, device = job.options.micro_batch_size, get_device()
    tell = remote_put(mailbox, job.options.name)

    def input_from(start: int) -> Batches:
        return ray_batches(shared, start, job.settings.steps, rank, world, micro, transport, device)

    filesystem, root = files.resolve(f"{job.checkpoints}/{context.get_experiment_name()}")

    def put(checkpoint: Checkpoint, name: str) -> Checkpoint:
        put_checkpoint(Path(checkpoint.path), filesystem, f"{root}/{name}", job.claim.check)
        return Checkpoint(f"{root}/{name}", filesystem)

    def report(step: int, folder: Path | None) -> None:
        ray.train.report(
            {"step": step},
            Checkpoint.from_directory(folder) if folder is not None else None,
            checkpoint_dir_name=f"step-{step:07d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,  # training goes on meanwhile
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=put,
        )

    def resume(load: Callable[[Path], Beginning]) -> Beginning | None:
        # What is whole in the run's folder counts, not what Ray remembers: the same after a lost worker as after a lost
        # driver. One rank looks, so that all go on from the same step; each compares what it loads.
        note = partial(tell, "note")
        newest, loaded = (load_newest(job.checkpoints, load, note) if rank == 0 else None) or (None, None)
        address = broadcast_from_rank_zero(newest.address if newest is not None else None)
        return load_checkpoint(address, load) if address is not None and rank else loaded

    place = Place(
        rank=rank,
        world=world,
        device=device,
        resume=resume,
        # gradients live in the buckets that are sent: one copy and its memory less
        wrap=lambda model: prepare_model(model, parallel_strategy_kwargs={"gradient_as_bucket_view": True}),
        batches=input_from,
        report=report,
        leaving=lambda: ray.train.get_preemption_info() is not None,
        ending=remote_ending(mailbox, rank, world, device),
        tell=tell,
    )
    with beside(device):
        train(job, source, place)


def here(
    job: Job,
    source: TrainingInput,
    plan: EpochPlan | RehearsedPlan,
    transport: Transport,
    tell: Callable[..., None],
    target: str,
) -> None:
    """Trains in this process, without Ray; checkpoints go to the folder `target`."""

    micro = job.options.micro_batch_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def input_from(start: int) -> Batches:
        return staged(batches(source, plan, start, job.settings.steps, micro=micro), transport.prefetch, device)

    filesystem, root = files.resolve(target)

    def report(step: int, folder: Path | None) -> None:
        assert folder is not None
        try:
            put_checkpoint(folder, filesystem, f"{root}/step-{step:07d}", job.claim.check)
        finally:
            shutil.rmtree(folder)

    place = Place(
        device=device,
        resume=lambda load: (load_newest(job.checkpoints, load, say) or (None, None))[1],
        wrap=lambda model: model,
        batches=input_from,
        report=report,
        ending=requested,
        tell=tell,
    )
    train(job, source, place)
