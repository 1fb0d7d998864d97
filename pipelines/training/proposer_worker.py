"""What a worker of a proposer's training runs: where it goes on from, and what becomes of its checkpoints.

What is complete in the folder counts, not what Ray Train remembers (`mail.training.checkpoint`): the same after a lost
worker as after a lost driver.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mail import addresses
from mail.data import files
from mail.inventory import check_inventory
from mail.proposers.fit import ProposerJob, fit
from mail.training.checkpoint import MANIFEST, Saved, note_step, prune, put_checkpoint
from mail.training.going_on import find_whole
from pipelines import ending
from pipelines.claiming.claim import Ticket
from pipelines.terminal import say
from pipelines.training.progress import remote_ending

KEPT = 2  # checkpoints: where the newest is damaged, the one before is used


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a training, the same for every worker.

    Attributes:
        training: folder of the checkpoints of all starts. name: of this one's within it.
        claim: on the proposer's folder, without which nothing is written.
        mailbox: takes the figures; an actor, or an object where this is the driver's process.
    """

    job: ProposerJob
    training: str
    name: str
    claim: Ticket
    mailbox: Any


def here(start: Start) -> None:
    """Trains in the driver's process, without Ray."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    filesystem, root = files.resolve(addresses.join(start.training, start.name))

    def keep(metrics: dict[str, Any], folder: Path | None) -> None:
        if folder is not None:
            put_checkpoint(folder, filesystem, f"{root}/step-{metrics['step']:07d}", start.claim.check)

    report = _reporter(start, start.mailbox.put, keep)
    newest = find_whole(start.training, say)
    _train(
        start, newest, device=device, report=report, wrap=lambda network: network.to(device), ending=ending.requested
    )


def on_ray(start: Start) -> None:
    """Trains as one of Ray Train's workers."""
    import ray
    import ray.train
    import torch
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    rank, world, device = context.get_world_rank(), context.get_world_size(), get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))

    def put(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        filesystem, root = files.resolve(addresses.join(start.training, start.name, name))
        put_checkpoint(Path(checkpoint.path), filesystem, root, start.claim.check)
        return ray.train.Checkpoint(root, filesystem)

    def keep(metrics: dict[str, Any], folder: Path | None) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(folder) if folder is not None else None
        name = f"step-{metrics['step']:07d}"
        ray.train.report(metrics, checkpoint, checkpoint_dir_name=name, checkpoint_upload_fn=put)

    report = _reporter(start, start.mailbox.put.remote, keep) if rank == 0 else keep
    asked = remote_ending(start.mailbox, rank, world, device)
    note = partial(start.mailbox.put.remote, "note")  # what a worker says itself is heard with Ray's own lines only
    newest = broadcast_from_rank_zero(find_whole(start.training, note) if rank == 0 else None)
    of_rank = {"rank": rank, "world_size": world, "wrap": prepare_model, "ending": asked}
    _train(start, newest, device=device, report=report, **of_rank)


def _reporter(
    start: Start, tell: Callable[..., Any], keep: Callable[[dict[str, Any], Path | None], None]
) -> Callable[[dict[str, Any], Path | None], None]:
    """What rank 0 does with figures and checkpoints."""

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if folder is None:
            start.claim.alive()
        else:
            note_step(folder, metrics["step"])
        keep(metrics, folder)
        tell("figures", metrics)
        if folder is not None:
            prune(start.training, KEPT)

    return report


def _train(start: Start, newest: Saved | None, **of_worker: Any) -> None:
    with files.local_folder(newest.address) if newest is not None else contextlib.nullcontext() as folder:
        if folder is not None:
            check_inventory(folder, (MANIFEST,))  # also what came to another machine
        fit(start.job, resume=folder, **of_worker)
