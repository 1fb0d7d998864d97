"""What an ended training leaves, and what the same command needs to go on from there."""

import contextlib

from mail.errors import UserError
from mail.training.checkpoint import find_latest
from pipelines.ending import EndRequested
from pipelines.training.config import TrainConfig
from pipelines.training.run_state import RunState


def tell_kept(end: EndRequested, config: TrainConfig) -> None:
    """Has the request say what of the run is there."""
    with contextlib.suppress(OSError, UserError):  # the store is away, or the folder another run's
        state = RunState.open(config.folder, config.name)
        if state.config is None:
            end.kept = "nothing of the run was begun"
            return
        end.flags = ("--resume",)
        newest = find_latest(state.checkpoints)
        if state.finished:
            end.kept = f"run {config.name} is finished, its model is {state.model}"
        elif newest is not None:
            end.kept = f"step {newest.step} of run {config.name} is kept in {newest.address}"
        else:
            end.kept = f"run {config.name} has no checkpoint yet"
