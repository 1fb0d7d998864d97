"""Everything that decides what a training computes, and nothing of where or on how many machines it runs."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mail.data.epoch_plan import Rule
from mail.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The recipe of one run; saved with every checkpoint, and a resumed run must have the same.

    Attributes:
        seed: of the weights, the order of the data and the proposals that are withheld.
        steps: optimizer steps of the whole run.
        global_batch_size: expressions in a step, over all workers.
        learning_rate: at the end of the warm-up. warmup_fraction: share of `steps` for the warm-up.
        decay: `cosine` or `poly` (power .9) down to `final_fraction` of the learning rate, or `constant`.
        optimizer: `adamw`, or `muon` for the matrices and AdamW for the rest.
        frozen_fraction: share of `steps`, the first ones, in which the pre-trained tower stays as it is.
        tower_rate: learning rate of its last block over that of what is new; layer_decay: of each block over the next.
        weight_decay: on matrices only. betas: AdamW's momenta. gradient_clip: largest norm of the gradient.
        rule: which expressions an epoch has. expressions_per_image: of one image that stay together.
        window_groups: image row groups that are shuffled together.
        proposal_dropout: share of images whose proposals are withheld, drawn anew for every step.
    """

    seed: int = 0
    steps: int = 1000
    global_batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_fraction: float = 0.1
    decay: Literal["cosine", "poly", "constant"] = "cosine"
    final_fraction: float = 0.01
    optimizer: str = "adamw"
    frozen_fraction: float = 0.0
    tower_rate: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    gradient_clip: float = 1.0
    rule: Rule = "all"
    expressions_per_image: int = 2
    window_groups: int = 32
    proposal_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch_size", "expressions_per_image", "window_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("learning_rate", "gradient_clip", "tower_rate", "layer_decay"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: it must not be negative")
        for name in ("warmup_fraction", "final_fraction", "proposal_dropout", "frozen_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be between 0 and 1")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, from 0: linear warm-up, then the decay."""
        warmup = round(self.warmup_fraction * self.steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = min((step - warmup) / max(self.steps - warmup, 1), 1.0)
        if self.decay == "constant":
            return self.learning_rate
        if self.decay == "cosine":
            share = (1 + math.cos(math.pi * progress)) / 2
        else:
            share = (1 - progress) ** 0.9
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * share)

    def is_frozen(self, step: int) -> bool:
        """Whether the tower stays as it is in step `step`, from 0."""
        return step < round(self.frozen_fraction * self.steps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"betas": list(self.betas)}
