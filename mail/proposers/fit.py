"""A whole training of a Mask R-CNN as one worker sees it: resume, steps, checkpoints, held-out recall. Without Ray."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN

from mail.data.coco import CocoInstances
from mail.data.filling import naming
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.origins import UNKNOWN
from mail.proposals import Proposals
from mail.proposers.average_precision import mask_ap
from mail.proposers.folder import ProposerFolder
from mail.proposers.maskrcnn import MaskRCNNProposer, build_network, load_initial_weights
from mail.proposers.presets import ProposerPreset
from mail.proposers.quality import instance_recall
from mail.proposers.training import InstanceImages, learning_rate, training_batches, training_step

WEIGHTS = "model.safetensors"
STATE = "training.pt"
EVALUATION_BATCH = 16
Report = Callable[[dict[str, Any], Path | None], None]


@dataclass(frozen=True, kw_only=True)
class ProposerJob(ProposerPreset):
    """Everything that determines the weights: a preset with the options' changes, on these images."""

    instances: str
    images: str
    seed: int
    weights: str | None
    checkpoint_every: int
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    exif_annotated: ExifAnnotated = AS_SHOWN

    def recipe(self) -> dict[str, Any]:
        """The job without its lists of images, for people and records."""
        return {k: v for k, v in asdict(self).items() if k not in ("train", "held_out")}


def fit(
    job: ProposerJob,
    *,
    device: torch.device,
    report: Report,
    rank: int = 0,
    world_size: int = 1,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    resume: Path | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> None:
    """Trains; every worker of a job calls this with its rank.

    Args:
        report: called equally often by all workers, with metrics and, on rank 0 at checkpoints, a folder of files that
            `resume` understands (gone after the call). The last call has the held-out recall, if it comes to that.
        wrap: puts the network on the device and makes it average gradients over the workers.
        resume: a checkpoint's folder to go on from.
        ending: whether the training is asked to end with a checkpoint of the step, the same for all workers.
    """
    torch.manual_seed(job.seed)
    network = build_network(job.network, job.selection)
    if job.weights and resume is None:
        load_initial_weights(network, job.weights)
    network.to(memory_format=torch.channels_last)
    first = 0
    state: dict[str, Any] = {}
    if resume is not None:
        network.load_state_dict(safetensors.torch.load_file(resume / WEIGHTS))
        state = torch.load(resume / STATE, map_location="cpu", weights_only=True)
        first = state["step"]
    model = wrap(network).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    images = InstanceImages(CocoInstances(job.instances), job.images, job.network.classes, job.exif_annotated)
    batches = training_batches(
        images,
        job.train,
        batch_size=job.batch_size,
        seed=job.seed,
        first_step=first,
        rank=rank,
        world_size=world_size,
    )
    report_every = 10 if job.steps <= 1000 else 50
    started = time.monotonic()
    for step, (pictures, targets) in zip(range(first, job.steps), batches, strict=False):
        torch.manual_seed((job.seed * 1_000_003 + step) * world_size + rank)  # torchvision samples regions at random
        lr = learning_rate(step, job.steps, job.learning_rate, job.warm_up)
        losses = training_step(model, optimizer, pictures, targets, lr=lr, device=device)
        finished = step + 1
        metrics = {"step": finished, "seconds": time.monotonic() - started, "learning_rate": lr, **losses}
        halts = finished < job.steps and ending()
        if halts or (finished < job.steps and finished % job.checkpoint_every == 0):
            with tempfile.TemporaryDirectory() as folder:
                report(metrics, _save(Path(folder), network, optimizer, finished) if rank == 0 else None)
        elif finished % report_every == 0 or step == first:  # the first one tells that there is something to save
            report(metrics, None)
        if halts:
            batches.close()
            return
    batches.close()
    training_seconds = time.monotonic() - started
    with tempfile.TemporaryDirectory() as folder:
        if rank != 0:
            report({"step": job.steps}, None)
            return
        quality = evaluate(job, network, images, device)
        final = {"step": job.steps, "training_seconds": training_seconds, **quality}
        report(final, _save(Path(folder), network, optimizer, job.steps))


def evaluate(
    job: ProposerJob, network: MaskRCNN, images: InstanceImages, device: torch.device
) -> dict[str, float | None]:
    """COCO mask AP and class-agnostic recall of the held-out images' instances, and images a second (network, masks and
    run lengths)."""
    unnamed = ProposerFolder("", job.network.architecture, job.network, job.selection, "", UNKNOWN)
    proposer = MaskRCNNProposer(unnamed, network, device)
    by_image: dict[int, Proposals] = {}
    spent = 0.0
    for at in range(0, len(job.held_out), EVALUATION_BATCH):
        chosen = job.held_out[at : at + EVALUATION_BATCH]
        pictures: list[np.ndarray] = [images.image(i) for i in chosen]
        started = time.monotonic()
        found = proposer.propose(pictures)
        spent += time.monotonic() - started
        by_image |= dict(zip(chosen, found, strict=True))
    pairs = [(images.masks(i)[0], proposals) for i, proposals in by_image.items()]
    precision = mask_ap(images.coco, by_image, images.categories is None, images.upright)
    return {**instance_recall(pairs), **precision, "images_per_second": len(pairs) / spent if spent else 0.0}


def _save(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Path:
    state = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
    with naming(folder):
        safetensors.torch.save_file(state, folder / WEIGHTS)
        torch.save({"step": step, "optimizer": optimizer.state_dict()}, folder / STATE)
    return folder
