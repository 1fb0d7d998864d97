"""Network and optimizer as a training begins, or goes on from a checkpoint."""

from pathlib import Path
from typing import Any

import torch

from mail.data import files
from mail.model import MailConfig, MailForReferringSegmentation
from mail.model.continuing import continue_from
from mail.model.pretrained import load_pretrained
from mail.training.checkpoint import load_optimizer
from mail.training.curves import Curves
from mail.training.optimizer import make_optimizer
from mail.training.settings import TrainingSettings

Beginning = tuple[MailForReferringSegmentation, torch.optim.Optimizer, int, Curves]
"""Network, optimizer, steps that were taken, and what was measured in them."""


def begin(
    settings: TrainingSettings,
    network: dict[str, Any],
    pretrained: str | None,
    parent: str | None,
    device: torch.device,
    checkpoint: Path | None,
) -> Beginning:
    """What a training begins with.

    Args:
        network: fields of its configuration. pretrained: of its tower. parent: address of a MODEL to go on from.
        checkpoint: folder to go on from; then nothing else counts.
    """
    if checkpoint is not None:
        model = MailForReferringSegmentation.from_pretrained(checkpoint)
    else:
        torch.manual_seed(settings.seed)
        model = MailForReferringSegmentation(MailConfig(**network))
        if pretrained is not None:
            load_pretrained(model, pretrained)
        if parent is not None:
            with files.local_folder(parent) as folder:
                continue_from(model, folder)
    model.to(device)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, settings)
    step = load_optimizer(checkpoint, model, optimizer) if checkpoint is not None else 0
    return model, optimizer, step, Curves.load(checkpoint)
