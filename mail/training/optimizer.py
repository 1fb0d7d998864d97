"""How the weights are moved: AdamW as the field uses it, and Muon for the matrices of a network.

Matrices decay, everything else (norms, biases, embeddings, gains) does not.
"""

from collections import defaultdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from mail.errors import UserError
from mail.training.settings import TrainingSettings

Kind = Literal["adamw", "muon"]
MATRIX_RATE = 3.0  # learning rate of Muon's matrices over that of the rest
LIKE_ADAMW = (
    0.2  # size of an orthogonal update that is about that of one of AdamW's (Liu et al. 2025, arXiv 2502.16982)
)
MOMENTUM = 0.95
ITERATION = ((3.4445, -4.7750, 2.0315),) * 5  # Newton-Schulz: coefficients of X, X X' X and (X X')^2 X


class Muon(AdamW):
    """Momentum made orthogonal for the groups that say `orthogonal` (Jordan et al. 2024), AdamW for the others.

    PyTorch has Muon as well, always in bf16, which a CPU computes many times more slowly than float32, and one matrix
    at a time; here matrices of one shape are one batch.
    """

    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                self._move(group)
        return loss

    @torch.no_grad()
    def _move(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.Size, torch.device], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape, parameter.device].append(parameter)
        for (shape, _), parameters in alike.items():
            updates = []
            for parameter in parameters:
                assert parameter.grad is not None
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                updates.append(parameter.grad.lerp(state["momentum"], MOMENTUM))
            size = group["lr"] * LIKE_ADAMW * max(shape) ** 0.5
            for parameter, update in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.to(parameter.dtype), alpha=size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V' of the singular value decomposition U S V' of each matrix (B, rows, columns)."""
    found = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = found.shape[1] > found.shape[2]
    found = found.mT if tall else found
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for first, third, fifth in ITERATION:
        product = found @ found.mT
        found = first * found + torch.baddbmm(product, product, product, beta=third, alpha=fifth) @ found
    return found.mT if tall else found


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """The optimizer of the settings; fused: one pass over the weights, on CPUs as well as GPUs.

    A group's learning rate is its `rate` times that of the settings; `tower` says that it is a part of the pre-trained
    encoder, which begins frozen.

    Raises:
        UserError: there is no such optimizer.
    """
    if settings.optimizer not in get_args(Kind):
        raise UserError(f"no optimizer {settings.optimizer!r}: choose one of {', '.join(get_args(Kind))}")
    muon = settings.optimizer == "muon"
    decay, rest = split_parameters(model)
    depths = tower_depths(model)
    last = max(depths.values(), default=0)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in (rest | decay).items():
        orthogonal = muon and name in decay and parameter.ndim == 2
        tower = name in depths
        rate = settings.tower_rate * settings.layer_decay ** (last - depths[name]) if tower else 1.0
        values = {
            "weight_decay": settings.weight_decay if name in decay else 0.0,
            "orthogonal": orthogonal,
            "rate": rate * (MATRIX_RATE if orthogonal else 1.0),
            "tower": tower and settings.frozen_fraction > 0,
        }
        groups.setdefault(tuple(values.values()), {**values, "params": []})["params"].append(parameter)
    kind = Muon if muon else AdamW
    return kind([groups[key] for key in sorted(groups)], lr=settings.learning_rate, betas=settings.betas, fused=True)


def tower_depths(model: nn.Module) -> dict[str, int]:
    """Of each parameter of the pre-trained encoder, by name: 0 for what embeds words and patches, then the blocks'
    numbers from 1, then the final norm."""
    found = {}
    for name, _ in model.named_parameters():
        if name.startswith(("text.", "patch.")):
            found[name] = 0
        elif name.startswith("encoder.blocks."):
            found[name] = int(name.split(".")[2]) + 1
        elif name.startswith("encoder.norm"):
            found[name] = len(model.encoder.blocks)  # type: ignore[union-attr,arg-type]  # as the last block
    return found


def split_parameters(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trainable parameters by name: those with weight decay, and those without."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decay: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # position embeddings and class tokens are (1, P, d): tables, not matrices of a product
        table = id(parameter) in embeddings or name.endswith(("_embeddings", "_token"))
        (rest if parameter.ndim < 2 or table else decay)[name] = parameter
    return decay, rest
