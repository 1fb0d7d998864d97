"""The training of a proposer on Ray Train: holds the folder, starts the workers, follows them, writes the proposer.

What a worker computes is `mail.proposers.fit`'s.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import time
from functools import partial
from typing import Any

from pyarrow.fs import FileSelector

from mail import addresses, json_text
from mail.data import files
from mail.data.orientation import assumption
from mail.data.origins import Origin
from mail.errors import UserError
from mail.proposers.fit import WEIGHTS, ProposerJob
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.training.going_on import find_whole
from pipelines import ending
from pipelines.claiming.claim import Claim, Ticket
from pipelines.cluster_session.errors import plain_errors
from pipelines.cluster_session.session import connect
from pipelines.terminal import done, progress_of, say
from pipelines.training.progress import Follower, Mailbox, start_mailbox
from pipelines.training.proposer_config import ProposerTrainingConfig
from pipelines.training.proposer_plan import check_weights, look_at_photos, plan_training, seen_before
from pipelines.training.proposer_worker import Start, here
from pipelines.training.shares import check_workers


def train_proposer(config: ProposerTrainingConfig) -> dict[str, Any]:
    """Trains, or goes on with an unfinished training; returns the held-out recall, the proposer's id and the seconds.

    Raises:
        UserError: an option is wrong, the folder holds something else, or another process has it.
    """
    if (before := outcome(config)) is not None:
        return before
    with Claim(config.out, f"proposer {config.out}", "another --out") as claim:
        return _train_proposer(config, claim)


def outcome(config: ProposerTrainingConfig) -> dict[str, Any] | None:
    """Tells what a finished training of this very command gave; None if there is anything to do, or to refuse.

    Raises:
        UserError: the proposer is damaged.
    """
    filesystem, root = files.resolve(config.out)
    if not files.exists(filesystem, f"{root}/proposer.json"):
        return None
    found = ProposerFolder.read(config.out)
    if found.training.get("asked") != config.asked("workers"):
        return None
    found.weights()
    quality = found.training["held_out"]
    done(f"{config.out} is finished: {found.proposer_id}, {_quality(quality, config.class_agnostic)}")
    return {"proposer_id": found.proposer_id, "seconds": 0.0, **quality}


def _train_proposer(config: ProposerTrainingConfig, claim: Ticket) -> dict[str, Any]:
    started = time.monotonic()
    job, chosen, remarks = plan_training(config)
    before = seen_before(config, chosen.namespace)
    check_workers(config.workers, 1.0)
    files.check_writable(config.out)
    with progress_of("photos looked at") as progress:
        job, chosen, keys = look_at_photos(config, job, chosen, progress)
    training, new = begin(config.out, job)
    for reason, count in chosen.excluded.items():
        say(f"excluded: {count} images of {reason}")
    if chosen.left_out < sum(chosen.excluded.values()):
        say(f"excluded: {chosen.left_out} images in all, as some have several reasons")
    say(
        f"training {config.preset} on {len(job.train)} images ({chosen.namespace}/...), {len(job.held_out)} held "
        f"out: {job.steps} steps of {job.batch_size}"
    )
    if chosen.assumed:
        say(assumption(chosen.assumed, config.exif_annotated))
    for line in remarks:
        say(line)
    if before.unknown:
        say(f"nobody knows which images {config.weights} saw: this proposer counts as leaky (see --weights-images)")
    elif config.weights:
        say(f"the weights to start from saw {before}")
    try:
        if new:
            check_weights(job)
        metrics = _train(job, training, config.workers, claim)
        claim.check()
        weights = trained(training, job.steps)
    except BaseException:
        if new and not claim.is_lost():
            with contextlib.suppress(OSError):  # the store is away: the same command goes on there
                _withdraw(training)
        raise
    at = [(k.partition("@")[2], metrics[k], metrics[k.replace("_50", "_75")]) for k in metrics if "recall_50@" in k]
    if at:
        say("recall@.5/.75 of the best K: " + ", ".join(f"K={k} {low:.3f}/{high:.3f}" for k, low, high in at))
    folder = write_proposer(
        config.out,
        network=job.network,
        selection=job.selection,
        weights=weights,
        seen=before | Origin.of(keys),
        training={**job.recipe(), "held_out": metrics, "images": len(job.train), "asked": config.asked("workers")},
    )
    filesystem, path = files.resolve(training)
    filesystem.delete_dir(path)
    seconds = time.monotonic() - started
    done(
        f"wrote {config.out}: {folder.proposer_id}, trained on {len(job.train)} images in {seconds:.0f} s, "
        f"{_quality(metrics, config.class_agnostic)}"
    )
    return {"proposer_id": folder.proposer_id, "seconds": seconds, **metrics}


def _quality(metrics: dict[str, Any], class_agnostic: bool) -> str:
    if "recall_50" not in metrics:
        return "not measured: there is no held-out instance"
    return (
        f"recall@.5 {metrics['recall_50']:.3f} and @.75 {metrics['recall_75']:.3f} of {metrics['instances']} held-out "
        f"instances with {metrics['proposals_per_image']:.1f} proposals an image, mask AP {metrics['mask_AP']:.3f}"
        f"{' (one class)' if class_agnostic else ''}"
    )


def begin(out: str, job: ProposerJob) -> tuple[str, bool]:
    """The folder of the unfinished training, which is of this job alone, and whether it is new."""
    filesystem, root = files.resolve(out)
    if files.exists(filesystem, f"{root}/proposer.json"):
        raise UserError(f"{out} already holds a proposer: choose another --out or delete it first")
    config = json.dumps(dataclasses.asdict(job), sort_keys=True).encode()
    digest = hashlib.sha256(config).hexdigest()
    mark = f"{root}/training/job.json"
    if begun := files.exists(filesystem, mark):
        if (
            json_text.read_record(
                addresses.join(out, "training/job.json"), files.read_bytes(filesystem, mark), "digest"
            )["digest"]
            != digest
        ):
            raise UserError(
                f"{out} holds an unfinished training with other settings or images: repeat its command, or "
                "delete the folder"
            )
        say(f"continuing the unfinished training in {out}")
    else:
        files.write_bytes(filesystem, mark, json.dumps({"digest": digest, "job": job.recipe()}).encode())
    return addresses.join(out, "training"), not begun


def trained(training: str, steps: int) -> bytes:
    """The weights after the last step."""
    newest = find_whole(training, say)
    if newest is None or newest.step != steps:
        raise UserError(f"{training} has no whole checkpoint of the last step, {steps}: repeat the command")
    with files.local_folder(newest.address) as folder:
        return (folder / WEIGHTS).read_bytes()


def _withdraw(training: str) -> None:
    """Leaves nothing of a start that came to no checkpoint, so that other settings can be tried in the same folder."""
    filesystem, path = files.resolve(training)
    found = filesystem.get_file_info(FileSelector(path, recursive=True))
    if not any(file.base_name == WEIGHTS for file in found):
        filesystem.delete_dir(path)


def _train(job: ProposerJob, training: str, workers: int, claim: Ticket) -> dict[str, Any]:
    """Trains to the last step, or to a checkpoint where this process is asked to end; the last figures."""
    begun = partial(Start, job=job, training=training, name=_next_start(training), claim=claim)
    if workers == 0:
        mailbox = Mailbox()
        with ending.postponed(), _Followed(mailbox.take, job.steps) as followed:
            here(begun(mailbox=mailbox))
        return followed.numbers()
    with connect():
        actor, take = start_mailbox()
        with ending.postponed(), _Followed(take, job.steps) as followed:
            start = begun(mailbox=actor)
            # Ray would take Ctrl-C for itself in the main thread
            ending.in_thread(partial(_fit, start, workers), actor.end.remote, lambda: not followed.last)
        return followed.numbers()


def _next_start(training: str) -> str:
    """A name that no start of a training had: one that ended well is not begun again by Ray Train."""
    filesystem, root = files.resolve(training)
    names = {i.base_name for i in filesystem.get_file_info(FileSelector(root, allow_not_found=True))}
    return next(name for n in itertools.count(1) if (name := f"start-{n:03d}") not in names)


def _fit(start: Start, workers: int) -> None:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.training.watch import EndOnWrongInput

    filesystem, path = files.resolve(start.training)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"start": start},
        scaling_config=ScalingConfig(**_scaling(workers)),
        run_config=RunConfig(
            name=start.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=None),  # the worker deletes those that are not needed
            failure_config=FailureConfig(max_failures=2),
            callbacks=[EndOnWrongInput()],  # type: ignore[list-item]  # annotated for Ray Train's old callbacks
        ),
    )
    with plain_errors():
        trainer.fit()


def _train_worker(given: dict[str, Any]) -> None:
    """What a worker runs. Ray's controller unpickles it, and must not have to load the network's code for that."""
    from pipelines.training.proposer_worker import on_ray

    on_ray(given["start"])


def _scaling(workers: int) -> dict[str, Any]:
    """One GPU a worker where the cluster has that many; otherwise all CPUs, shared out evenly."""
    import ray

    if ray.cluster_resources().get("GPU", 0) >= workers:
        return {"num_workers": workers, "use_gpu": True}
    nodes = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
    fitting = [n for n in range(1, max(nodes, default=1) + 1) if sum(cpus // n for cpus in nodes) >= workers]
    if not fitting:
        raise UserError(
            f"{workers} workers need at least that many CPUs, the cluster has {sum(nodes)}: lower --workers"
        )
    return {"num_workers": workers, "resources_per_worker": {"CPU": max(fitting)}}


class _Followed(Follower):
    """Shows the figures that workers send."""

    def numbers(self) -> dict[str, Any]:
        """Those of the newest figures that could be measured."""
        return {k: v for k, v in self.last.items() if isinstance(v, int | float)}

    def _on_figures(self, figures: dict[str, Any]) -> None:
        fresh, self.last = not self.last, figures  # the first one is told at once
        if "loss" in figures:
            loss, rate = f"loss {figures['loss']:.3f}", f"lr {figures['learning_rate']:.1e}"
            line = f"step {figures['step']}/{self._steps}: {loss}, {rate}, {figures['seconds']:.0f} s"
            self._advance(figures["step"], f"{loss}, {rate}", line=line, at_once=fresh)
