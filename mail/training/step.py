"""One optimizer step, exact for any number of workers and any gradient accumulation.

The loss of a step is the mean over the expressions of the *global* batch. A worker has some of them, in one or several
parts; a part's mean counts by the part's share of the global batch. Workers' gradients are averaged (DDP), hence the
factor `world`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mail.data.epoch_plan import Batch
from mail.errors import UserError
from mail.training.settings import TrainingSettings

LOWER_RATE = (
    "start with a lower --learning-rate, or, where the run has a checkpoint, go on from the last with --resume "
    "--learning-rate X --because REASON"
)
LOSS_TERMS = ("mask_bce", "mask_dice", "selection", "no_target")


@dataclass
class TrainingBatch:
    """A part of a step, ready for the network: what the plan asked for, and its tensors."""

    plan: Batch
    tensors: dict[str, Tensor]

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same on a device; itself where it is there."""
        return TrainingBatch(self.plan, {k: v.to(device, non_blocking=True) for k, v in self.tensors.items()})


def by_step(batches: Iterable[TrainingBatch]) -> Iterator[list[TrainingBatch]]:
    """The parts of each step together."""
    for _, parts in groupby(batches, key=lambda b: b.plan.step):
        yield list(parts)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[TrainingBatch],
    settings: TrainingSettings,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | None = None,
    bf16: bool = False,
) -> Tensor:
    """Computes the gradient of a step from this worker's parts, and takes the step.

    Returns:
        float32 (2 + len(LOSS_TERMS),) on the device: this worker's share of the global loss and of each term (sum
        them over the workers), and the norm of the whole gradient before it was clipped. Nothing waits for the device.
    """
    step = parts[0].plan.step
    device = device or torch.device("cpu")
    # randomness is a function of the step, so there is no state of a generator to save and restore
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, step, rank]).generate_state(1)[0]))
    for group in optimizer.param_groups:
        frozen = group["tower"] and settings.is_frozen(step)
        group["lr"] = 0.0 if frozen else group["rate"] * settings.learning_rate_at(step)
    optimizer.zero_grad(set_to_none=True)
    shares = torch.zeros(1 + len(LOSS_TERMS), device=device)
    for number, part in enumerate(parts):
        part = part.to(device)
        last = number == len(parts) - 1
        local = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else contextlib.nullcontext()
        with local:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = model(**part.tensors)
            share = len(part.plan.rows) / part.plan.total
            (output.loss * (share * world)).backward()
        if number == 0 and not last:  # what a recorded pass has left would be overwritten by the next one
            for parameter in model.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
        zero = output.loss.new_zeros(())
        terms = [output.losses.get(name, zero) for name in LOSS_TERMS]
        shares += share * torch.stack([output.loss.detach(), *(t.detach() for t in terms)]).float()
    norm = nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
    optimizer.step()
    return torch.cat([shares, norm.detach().float().reshape(1)])


def check_finite(model: nn.Module, step: int) -> None:
    """Before a checkpoint is saved: the last one must be good. Raises UserError where a weight is not finite."""
    wrong = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if wrong:
        raise UserError(f"weights are not finite after step {step} ({wrong[0]}, {len(wrong)} in all): {LOWER_RATE}")


def records(first_step: int, results: Sequence[Tensor], settings: TrainingSettings, world: int) -> list[dict]:
    """What is logged of consecutive steps: loss, its terms, gradient norm and learning rate; waits for the device.

    Every worker calls it for the same steps: the shares are summed over all workers at once.

    Raises:
        UserError: a loss is not a finite number.
    """
    table = torch.stack(list(results))
    if world > 1:
        shares = table[:, :-1].contiguous()
        torch.distributed.all_reduce(shares)
        table = torch.cat([shares, table[:, -1:]], 1)
    found = []
    for step, row in enumerate(table.tolist(), first_step):
        values = dict(zip(("loss", *LOSS_TERMS, "gradient_norm"), row, strict=True))
        if not np.isfinite(row).all():
            raise UserError(f"the loss or its gradient is not finite at step {step + 1} ({values}): {LOWER_RATE}")
        seen = (step + 1) * settings.global_batch_size
        rate = settings.learning_rate_at(step)
        found.append({"step": step + 1, "expressions_seen": seen, **values, "learning_rate": rate})
    return found
