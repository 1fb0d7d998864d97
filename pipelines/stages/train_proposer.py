"""`mail-ris train-proposer --instances FILE --images DIR --out PROPOSER`: trains a Mask R-CNN with Ray Train.

OUT/proposer.json, model.safetensors, images.json    the proposer, once it is finished
OUT/training/                                        checkpoints until then; the same command goes on from them
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mail.data import files
from mail.errors import UserError
from mail.proposers.folder import write_proposer
from mail.proposers.presets import preset
from pipelines.stage import Stage, done, say

if TYPE_CHECKING:
    from mail.proposers.dataset import TrainingImages
    from mail.proposers.fit import ProposerJob

POLL_SECONDS = 0.5


@dataclasses.dataclass(kw_only=True)
class TrainProposer(Stage):
    """COCO-format instances -> Mask R-CNN weights and the list of images it saw."""

    instances: str
    """COCO `instances.json`, local or s3://."""

    images: str
    """Folder of the photos that it names."""

    out: str
    """Folder of the new proposer. If it holds an unfinished training of the same config, that goes on."""

    preset: Literal["tiny", "r50-fpn", "r50-fpn-v2"] = "tiny"
    """tiny: generated scenes on a CPU, about a minute. r50-fpn, r50-fpn-v2: torchvision's, for COCO on GPUs."""

    steps: int | None = None
    """Optimizer steps (default: the preset's)."""

    batch_size: int | None = None
    """Images a step, over all workers together (default: the preset's)."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW (default: the preset's)."""

    min_size: int | None = None
    """Images are resized to this shorter side (default: the preset's)."""

    max_size: int | None = None
    """Largest longer side after resizing (default: the preset's)."""

    workers: int = 1
    """Ray Train workers; each takes a GPU where the cluster has that many. 0 trains in this very process."""

    class_agnostic: bool = True
    """One class for everything, which is all that the network needs; otherwise one a category."""

    weights: str | None = None
    """State dict to start from (.safetensors or .pth): torchvision's Mask R-CNN, or a ResNet-50 as backbone."""

    weights_images: str | None = None
    """File with the ids of the images that --weights saw, or `none` if it saw none of COCO's (an ImageNet classifier).
    Without it the origin of --weights is unknown, and everything made with it counts as leaky."""

    exclude: str | None = None
    """File with ids of images that must not be trained on: one a line, or a JSON list."""

    exclude_eval_of: str = ""
    """Data sets, separated by commas, whose val and test images must not be trained on:
    refcoco,refcoco+,refcocog,grefcoco."""

    refs_root: str | None = None
    """Folder that holds `refcoco/refs(unc).p` and so on; needed for --exclude-eval-of."""

    exclude_store: str | None = None
    """Data store whose val and test images must not be trained on."""

    namespace: str = ""
    """What image ids begin with (default: as those of --exclude-store, else `coco`)."""

    holdout_fraction: float = 0.05
    """Share of the images that is kept for measuring the recall ..."""

    max_held_out: int = 200
    """... but at most so many."""

    checkpoint_every: int = 500
    """Steps between checkpoints."""

    seed: int = 0
    """Of the initial weights and the order of the images."""

    def plan(self) -> dict[str, Any]:
        job, chosen = self._job()
        return {
            "images": len(job.train),
            "held_out": len(job.held_out),
            "excluded": chosen.excluded,
            "left_out": chosen.left_out,
            "image_ids": f"{chosen.namespace}/...",
            "epochs": round(job.steps * job.batch_size / len(job.train), 2),
            "job": job.recipe(),
        }

    def run(self) -> dict[str, Any]:
        """Trains; returns the held-out recall, the proposer's id and the seconds it took."""
        started = time.monotonic()
        job, chosen = self._job()
        training = self._claim(job)
        for reason, count in chosen.excluded.items():
            say(f"excluded: {count} images of {reason}")
        if chosen.left_out < sum(chosen.excluded.values()):
            say(f"excluded: {chosen.left_out} images in all, as some have several reasons")
        say(
            f"training {self.preset} on {len(job.train)} images ({chosen.namespace}/...), {len(job.held_out)} held "
            f"out: {job.steps} steps of {job.batch_size}"
        )
        weights, metrics = _train(job, training, self.workers)
        at = [(k.partition("@")[2], metrics[k], metrics[k.replace("_50", "_75")]) for k in metrics if "recall_50@" in k]
        say("recall@.5/.75 of the best K: " + ", ".join(f"K={k} {low:.3f}/{high:.3f}" for k, low, high in at))
        folder = write_proposer(
            self.out,
            network=job.network,
            selection=job.selection,
            weights=weights,
            image_ids=self._seen(chosen),
            training={**job.recipe(), "held_out": metrics, "images": len(job.train)},
        )
        _delete(training)
        seconds = time.monotonic() - started
        done(
            f"wrote {self.out}: {folder.proposer_id}, trained on {len(job.train)} images in {seconds:.0f} s, "
            f"recall@.5 {metrics['recall_50']:.3f} and @.75 {metrics['recall_75']:.3f} of {metrics['instances']} "
            f"held-out instances with {metrics['proposals_per_image']:.1f} proposals an image, mask AP "
            f"{metrics['mask_AP']:.3f}{' (one class)' if self.class_agnostic else ''}"
        )
        return {"proposer_id": folder.proposer_id, "seconds": seconds, **metrics}

    def _job(self) -> "tuple[ProposerJob, TrainingImages]":
        from mail.data.coco import CocoInstances
        from mail.data.store import DataStore
        from mail.proposers.dataset import (
            choose_images,
            evaluation_images,
            infer_namespace,
            read_ids,
            store_evaluation_images,
            store_namespace,
        )
        from mail.proposers.fit import ProposerJob
        from mail.proposers.training import InstanceImages

        recipe = preset(self.preset)
        steps = recipe.steps if self.steps is None else self.steps
        batch_size = recipe.batch_size if self.batch_size is None else self.batch_size
        if steps < 1 or batch_size < max(1, self.workers):
            raise UserError(f"{steps} steps of {batch_size} images for {self.workers} workers: each needs at least one")
        if self.exclude_eval_of and not self.refs_root:
            raise UserError("--exclude-eval-of needs --refs-root, the folder that holds refcoco/refs(unc).p and so on")
        store = DataStore(self.exclude_store) if self.exclude_store else None
        namespace = self.namespace or (store_namespace(store) if store else infer_namespace(self.instances))
        forbidden: dict[str, set[str]] = store_evaluation_images(store) if store else {}
        if self.exclude:
            forbidden[self.exclude] = read_ids(self.exclude, namespace)
        if self.exclude_eval_of:
            forbidden |= evaluation_images(str(self.refs_root), self.exclude_eval_of.split(","), self.namespace)
        coco = CocoInstances(self.instances)
        chosen = choose_images(
            coco,
            namespace,
            forbidden=forbidden,
            holdout_fraction=self.holdout_fraction,
            max_held_out=self.max_held_out,
            seed=self.seed,
        )
        InstanceImages(coco, self.images).image(chosen.train[0])  # a wrong --images is said before anything starts
        network = dataclasses.replace(
            recipe.network,
            categories=recipe.network.categories if self.class_agnostic else tuple(coco.categories.items()),
            min_size=self.min_size or recipe.network.min_size,
            max_size=self.max_size or recipe.network.max_size,
            frozen_norm=self.weights is not None and recipe.network.architecture == "r50-fpn",
        )
        job = ProposerJob(
            network=network,
            selection=recipe.selection,
            instances=_absolute(self.instances),
            images=_absolute(self.images),
            steps=steps,
            batch_size=batch_size,
            learning_rate=self.learning_rate or recipe.learning_rate,
            warm_up=min(recipe.warm_up, steps // 4),
            weight_decay=recipe.weight_decay,
            seed=self.seed,
            weights=self.weights and _absolute(self.weights),
            checkpoint_every=self.checkpoint_every,
            train=tuple(chosen.train),
            held_out=tuple(chosen.held_out),
        )
        return job, chosen

    def _claim(self, job: "ProposerJob") -> str:
        """The folder of the unfinished training, which is this job's alone."""
        filesystem, root = files.resolve(self.out)
        if files.exists(filesystem, f"{root}/proposer.json"):
            raise UserError(f"{self.out} already holds a proposer: choose another --out or delete it first")
        config = json.dumps(dataclasses.asdict(job), sort_keys=True).encode()
        digest = hashlib.sha256(config).hexdigest()
        mark = f"{root}/training/job.json"
        if files.exists(filesystem, mark):
            if json.loads(files.read_bytes(filesystem, mark))["digest"] != digest:
                raise UserError(
                    f"{self.out} holds an unfinished training with other settings or images: repeat its command, or "
                    "delete the folder"
                )
            say(f"continuing the unfinished training in {self.out}")
        else:
            files.write_bytes(filesystem, mark, json.dumps({"digest": digest, "job": job.recipe()}).encode())
        return f"{_absolute(self.out)}/training"

    def _seen(self, chosen: "TrainingImages") -> list[str] | None:
        """Ids of all images that made the weights, None if those of --weights are unknown."""
        from mail.proposers.dataset import read_ids

        if self.weights is None or self.weights_images == "none":
            return chosen.seen
        if self.weights_images is None:
            say(f"nobody knows which images {self.weights} saw: this proposer counts as leaky (see --weights-images)")
            return None
        return sorted({*chosen.seen, *read_ids(self.weights_images, chosen.namespace)})


def _train(job: "ProposerJob", training: str, workers: int) -> tuple[bytes, dict[str, Any]]:
    """Runs the job with Ray Train; the weights and the last metrics."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchTrainer

    class ToFile(UserCallback):
        """Runs on this node, in Ray Train's controller process: hands the metrics to this process through a file."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            with open(progress, "a") as file:
                file.write(json.dumps(metrics[0]) + "\n")

    with tempfile.TemporaryDirectory(prefix="mail-proposer-") as folder, _session(workers):
        progress = Path(folder) / "progress.jsonl"
        run_config = RunConfig(
            name="run",
            storage_path=training,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=2),
            callbacks=[ToFile()],  # type: ignore[list-item]  # annotated for Ray Train's old callbacks
        )
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "local_folder": None if workers else folder},
            scaling_config=ScalingConfig(**_scaling(workers)),
            run_config=run_config if workers else None,
        )
        with _following(progress, job.steps):
            try:
                result = trainer.fit()
            except Exception as error:
                raise _as_user_error(error) or error from None
        assert result.checkpoint is not None
        assert result.metrics is not None
        with result.checkpoint.as_directory() as checkpoint:
            weights = (Path(checkpoint) / "model.safetensors").read_bytes()
        return weights, {k: v for k, v in result.metrics.items() if isinstance(v, int | float)}


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import ray.train.torch
    import torch

    from mail.proposers.fit import fit

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    local = config["local_folder"]
    if device.type == "cpu" and not local:
        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if local:
            _say_progress(metrics, config["job"].steps)
            folder = shutil.copytree(folder, Path(local) / "checkpoint", dirs_exist_ok=True) if folder else None
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder) if folder else None)

    arguments = {"device": device, "report": report, "rank": context.get_world_rank()}
    arguments |= {"world_size": context.get_world_size(), "wrap": ray.train.torch.prepare_model}
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        fit(config["job"], **arguments)
        return
    with checkpoint.as_directory() as folder:
        fit(config["job"], **arguments, resume=Path(folder))


def _scaling(workers: int) -> dict[str, Any]:
    """One GPU a worker where the cluster has that many; otherwise all CPUs, shared out evenly."""
    if workers == 0:
        return {"num_workers": 0}
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


def _session(workers: int) -> contextlib.AbstractContextManager:
    if workers == 0:
        return contextlib.nullcontext()
    from pipelines.cluster_session.session import connect

    return connect()


@contextlib.contextmanager
def _following(path: Path, steps: int) -> Iterator[None]:
    """Says the progress that the controller writes to a file, until the block ends."""
    ended = threading.Event()

    def follow() -> None:
        shown = 0
        while not ended.wait(POLL_SECONDS):
            lines = path.read_text().splitlines() if path.exists() else []
            for line in lines[shown:]:
                _say_progress(json.loads(line), steps)
            shown = len(lines)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _say_progress(metrics: dict[str, Any], steps: int) -> None:
    if "loss" in metrics:
        rate = f"lr {metrics['learning_rate']:.1e}, {metrics['seconds']:.0f} s"
        say(f"step {metrics['step']}/{steps}: loss {metrics['loss']:.3f}, {rate}")


def _as_user_error(error: BaseException | None) -> UserError | None:
    """The wrong input at the bottom of what Ray made of it, if it was one."""
    if error is None or isinstance(error, UserError):
        return error
    inner = [*getattr(error, "worker_failures", {}).values(), getattr(error, "cause", None), error.__cause__]
    return next((found for e in inner if isinstance(e, BaseException) and (found := _as_user_error(e))), None)


def _absolute(path: str) -> str:
    return path if path.startswith("s3://") else str(Path(path).absolute())


def _delete(folder: str) -> None:
    filesystem, path = files.resolve(folder)
    filesystem.delete_dir(path)
