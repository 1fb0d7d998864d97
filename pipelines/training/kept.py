"""What an ended training leaves, and what the same command needs to go on from there."""

import contextlib

from mail import addresses
from mail.data import files
from mail.errors import UserError
from mail.training.checkpoint import find_latest
from pipelines.ending import EndRequested
from pipelines.training.config import StudyConfig, TrainConfig
from pipelines.training.proposer_config import ProposerTrainingConfig
from pipelines.training.run_state import RunState


def tell_run(end: EndRequested, config: TrainConfig) -> None:
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


def tell_study(end: EndRequested, config: StudyConfig) -> None:
    """The same of a study and its trials."""
    with contextlib.suppress(OSError):
        filesystem, root = files.resolve(config.folder)
        if not files.exists(filesystem, f"{root}/study.json"):
            end.kept = "nothing of the study was begun"
            return
        end.flags = ("--resume",)
        end.kept = f"the trials of study {config.name} so far are kept in {config.folder}"


def tell_proposer(end: EndRequested, config: ProposerTrainingConfig) -> None:
    """The same of the training of a proposer."""
    with contextlib.suppress(OSError):
        filesystem, root = files.resolve(config.out)
        newest = find_latest(addresses.join(config.out, "training"))
        if files.exists(filesystem, f"{root}/proposer.json"):
            end.kept = f"the proposer is finished: {config.out}"
        elif newest is not None:
            end.kept = f"step {newest.step} of the proposer is kept in {newest.address}"
        else:
            end.kept = "the proposer has no checkpoint yet"
