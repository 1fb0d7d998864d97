"""The driver of a training run: claims the run's folder, has it trained, tells MLflow, exports and registers.

What a worker does is in `pipelines.training.worker`, how many there are and where in `pipelines.training.on_ray`; the
run's folder is `pipelines.training.run_state`'s.
"""

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mail.data import files
from mail.errors import UserError
from mail.model import describe
from mail.proposers.folder import ProposerFolder
from mail.training.checkpoint import Saved, prune
from mail.training.run_plan import RunPlan
from pipelines import ending
from pipelines.claiming.claim import Claim, Ticket
from pipelines.cluster_session.session import connect
from pipelines.registry.datasets import training_inputs
from pipelines.registry.run_log import RunLog, start_run
from pipelines.registry.system_metrics import system_metrics
from pipelines.registry.witness import seen
from pipelines.terminal import done, say
from pipelines.training.catching_up import CLOSE_SECONDS, LATER, complete, register
from pipelines.training.chosen import find_chosen
from pipelines.training.config import TrainConfig
from pipelines.training.finished import asked, has_model, outcome
from pipelines.training.input import Transport
from pipelines.training.on_ray import fit
from pipelines.training.overlays import Overlays, default_every
from pipelines.training.parentage import bundled_proposer, find_parent, keep_parent
from pipelines.training.progress import Mailbox, Progress, start_mailbox
from pipelines.training.run_state import RunState
from pipelines.training.shares import check_workers, worker_range
from pipelines.training.worker import Job, here

Validated = Callable[[dict[str, float]], None]


def train(config: TrainConfig, validated: Validated | None = None) -> dict[str, Any]:
    """Trains to the end.

    Args:
        validated: is called with the step and the scores of each validation.

    Returns:
        `model` (folder), `version` (registered, or None), `run_id`, `steps`, `seconds`, the last step's record and
        the last validation's scores.

    Raises:
        UserError: an option is wrong, the run cannot be begun or go on, or another process has it.
    """
    check_options(config)
    if (before := outcome(config)) is not None:
        return before
    with Claim(config.folder, f"run {config.name}", "another --name") as claim:
        return _train(config, claim, validated)


def _train(config: TrainConfig, claim: Ticket, validated: Validated | None) -> dict[str, Any]:
    begun = time.monotonic()
    say(f"reading {config.data}")
    run, state, start = prepare(config)
    if state.is_over(config.steps, start):
        return _finished(config, run, state, start, claim)
    for line in run.summary():
        say(line)
    if start is not None:
        say(f"going on from {start.address}")
    elif state.starts:
        say("no checkpoint of an earlier start is left: the training begins anew")
    kept = keep_parent(config, run.parent, state, claim.check)
    state.begin(run.config, asked(config))
    log: RunLog | None = None
    try:
        parent = {"mlflow.parentRunId": config.parent_run} if config.parent_run else {}
        inputs = training_inputs(run.store, run.snapshot)
        with ending.postponed():  # or MLflow would have a run that nobody ends
            tags = run.tags() | parent
            run_id = start_run(config.name, run.config, tags, state.run_id, state.key, inputs, state.folder)
            log = RunLog(run_id, say)
            if state.run_id not in (None, run_id):
                say(f"MLflow's run {state.run_id} is deleted: the record is written to a new one, {run_id}")
            state.recorded_as(run_id)
        lineage = run.lineage(run_id)
        overlays = Overlays(state.overlays)
        overlays.log(log)  # what a driver that was killed did not get to log
        job = _job(config, run, state, lineage, claim, kept)
        last, scores = _fit(config, run, state, job, log, validated, overlays)
        chosen, ended = find_chosen(state, run.settings.steps, run.patience, job.checkpoint_every)
        model_dir = state.export_model(chosen, lineage, _proposer(config, run, kept), claim.check)
        claim.check()
    except BaseException as error:
        if claim.is_lost():  # whoever has it now says how it ends
            if log is not None:
                log.abandon()
            raise
        if log is not None:
            log.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", timeout=5)
        with contextlib.suppress(OSError):  # the store is away: then the next start wants --resume
            state.withdraw()
        raise
    log.tags({"model": model_dir})
    recorded = log.close(timeout=CLOSE_SECONDS)
    if not recorded:
        say(f"MLflow does not have all of the run's record: {LATER.format(state.folder)}")
    claim.check()
    with ending.postponed():  # what is registered is noted, or it would be registered once more
        version = register(model_dir, run_id) if config.register else None
        result = {"version": version, "run_id": run_id, "steps": run.settings.steps, "last": last, "validation": scores}
        noted = {"best": state.best(), "recorded": recorded, "tags": run.tags() | parent, "seen": seen()}
        state.finish(result | noted | {"ended_at": ended.step}, config.keep_checkpoints)
    seconds = time.monotonic() - begun
    named = f", registered as mail-ris version {version}" if version else ""
    done(f"trained {ended.step} steps in {seconds:.0f} s: {model_dir}{named}")
    return {"model": model_dir, "seconds": seconds, **state.result}


def prepare(config: TrainConfig) -> tuple[RunPlan, RunState, Saved | None]:
    """All that can be known before anything begins: what the run is, what is in its folder, where to go on from.

    Raises:
        UserError: an option is wrong, the run cannot be begun or go on, or it cannot be written.
    """
    check_options(config)
    state = RunState.open(config.folder, config.name)
    start = state.find_start(config.resume)
    read = {
        f"--{name.replace('_', '-')}": place
        for name in ("data", "masks", "proposer", "rehearse", "rehearse_masks")
        if (place := getattr(config, name))
    }
    files.check_apart({"the folder of the run": config.folder}, read)
    files.check_writable(config.folder)
    state.is_over(config.steps, start)
    run = RunPlan.make(config, find_parent(config, state))
    state.check_config(run.config, config.because, start.step if start else 0)
    if start is None and (begun := run.beginning.check_pretrained()):
        say(begun)
    # generously: weights are written with AdamW's two moments; there are the best checkpoint and
    # the one that comes beside the newest
    checkpoints = config.keep_checkpoints + 2 if start is None else 1
    need = 4 * describe(run.network)["parameters"] * (3 * checkpoints + 1)
    files.check_writable(config.folder, need, "checkpoints and the model (see --keep-checkpoints)")
    return run, state, start


def check_options(config: TrainConfig) -> None:
    """What can be known to be wrong before anything is read. Raises UserError."""
    if not config.name or "/" in config.name or config.name in (".", ".."):
        raise UserError(f"--name {config.name!r}: a run needs a name without slashes")
    check_workers(config.workers)
    for name in ("checkpoint_every", "keep_checkpoints", "log_every", "micro_batch_size", "threads"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
    if config.patience is not None and config.patience < 0:
        raise UserError(f"--patience {config.patience} must be at least 0")
    if config.proposer is not None:  # it is only needed when the model is written
        ProposerFolder.read(config.proposer)


def _finished(
    config: TrainConfig, run: RunPlan, state: RunState, newest: Saved | None, claim: Ticket
) -> dict[str, Any]:
    """Makes complete what a finished run lacks by now: its model, MLflow's record, its place in the registry."""
    if not has_model(config.folder):
        assert newest is not None, "otherwise it is refused"
        kept = keep_parent(config, run.parent, state, claim.check)
        chosen, _ = find_chosen(state, state.earned, run.patience, _every(config, run))
        state.export_model(chosen, None, _proposer(config, run, kept), claim.check)
        say(f"the model of run {config.name} was gone: exported again from {chosen.address}")
    inputs = training_inputs(run.store, run.snapshot)
    complete(state, newest, config.keep_checkpoints, config.register, inputs, claim.check)
    done(f"run {config.name} is finished: {state.earned} steps, model in {state.model}")
    return {"model": state.model, **state.result}


def _proposer(config: TrainConfig, run: RunPlan, kept: str | None) -> str | None:
    """The proposer to bundle: the one that is named, or the parent's where the masks are of that."""
    weights = run.snapshot.proposer.get("weights_sha256") if run.snapshot is not None else None
    return config.proposer or bundled_proposer(kept, weights)


def _every(config: TrainConfig, run: RunPlan) -> int:
    """Steps between checkpoints: a patience needs more of them."""
    checkpoints = 20 if run.patience else 10
    return config.checkpoint_every or max(1, min(1000, -(-run.settings.steps // checkpoints)))


def _job(
    config: TrainConfig, run: RunPlan, state: RunState, lineage: dict[str, Any], claim: Ticket, parent: str | None
) -> Job:
    every = _every(config, run)
    shown = default_every(run.settings.steps, every) if config.overlay_every is None else config.overlay_every
    return Job(
        options=config,
        settings=run.settings,
        network=run.network.to_dict(),
        pretrained=run.beginning.pretrained,
        parent=parent,
        patience=run.patience,
        checkpoints=state.checkpoints,
        validation=run.validation,
        bf16={"auto": None, "fp32": False, "bf16": True}[config.precision],
        checkpoint_every=every,
        overlays=state.overlays,
        overlay_every=shown,
        threads=config.threads or os.cpu_count() or 1,
        step_flops=3.0 * describe(run.network)["forward_flops_per_expression"],
        config=run.config,
        lineage=lineage,
        claim=claim,
    )


def _fit(
    config: TrainConfig,
    run: RunPlan,
    state: RunState,
    job: Job,
    log: RunLog,
    validated: Validated | None,
    overlays: Overlays,
) -> tuple[dict[str, float], dict[str, float]]:
    """Trains; returns the last step's record and the last validation's scores."""

    def tidy() -> None:
        job.claim.check()
        prune(state.checkpoints, config.keep_checkpoints)

    def owned(take: Callable[[], list[tuple]]) -> list[tuple]:
        job.claim.alive()  # of a run that is another process's now nothing is told
        return take()

    told: Any = (log, run.settings.steps, tidy, validated, partial(overlays.log, log))
    if worker_range(config.workers) == (0, 0):
        mailbox, target = Mailbox(), f"{state.checkpoints}/{state.start_name}"
        told_to = Progress(partial(owned, mailbox.take), *told)
        with ending.postponed(), system_metrics(log.run_id), told_to as progress:
            here(job, run.source, run.epochs, Transport(), mailbox.put, target)
        return progress.last, progress.scores
    with connect():
        say(f"starting {config.workers} worker(s)")
        actor, take = start_mailbox()
        with ending.postponed(), Progress(partial(owned, take), *told) as progress:
            ending.in_thread(partial(fit, config, run, state, job, actor), actor.end.remote, lambda: not progress.moved)
        return progress.last, progress.scores
