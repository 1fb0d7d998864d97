"""`mail-ris train`: data store + mask table + preset -> checkpoints, a MODEL folder, an MLflow run, a registered model.

    mail-ris train --preset tiny --data STORE --masks TABLE --name RUN [--workers N] [--resume] [--out DIR]

    OUT/run.json                     what the run is, and whether it is finished
    OUT/checkpoints/start-001/...    checkpoints, per start of the run (each `--resume` is a new start)
    OUT/model/                       the finished MODEL

Killed anywhere, the same command with `--resume` goes on from the newest complete checkpoint and ends as if nothing had
happened.
"""

import dataclasses
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mail.errors import UserError
from pipelines.stage import Stage, done, say

if TYPE_CHECKING:
    from mail.training.run_plan import RunPlan
    from pipelines.run_log import RunLog
    from pipelines.run_state import RunState
    from pipelines.train_worker import Job


@dataclass(kw_only=True)
class ModelOverrides:
    """Changes to the preset's network (see `mail.model.MailConfig`); what is not given stays the preset's."""

    image_size: int | None = None
    """Side of the square canvas in pixels."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    hidden_size: int | None = None
    """Width of the encoder."""
    num_hidden_layers: int | None = None
    """Layers of the encoder."""
    num_attention_heads: int | None = None
    """Attention heads."""
    intermediate_size: int | None = None
    """Width of the feed-forward layers."""
    max_text_length: int | None = None
    """Word pieces that are kept of an expression."""
    mask_stride: int | None = None
    """Canvas pixels per cell of instance masks, targets and outputs."""
    mask_modality: Literal["none", "channels", "tokens"] | None = None
    """How instance masks enter the network."""
    max_instances: int | None = None
    """Instance slots; the best-scored proposals are kept."""
    coverage_bias: bool | None = None
    """Attention bias between an instance and the patches that it covers."""
    paste: bool | None = None
    """Add instances to the pixels that they cover, before the decoder."""
    selection: bool | None = None
    """Head and loss that say which proposal the expression means."""
    direct: bool | None = None
    """Selected masks feed the mask logits directly."""
    decoder_dim: int | None = None
    """Channels of the decoder."""
    stem_dim: int | None = None
    """Channels of the shallow pixel stem."""
    loss_mask_bce: float | None = None
    """Weight of the mask's cross-entropy."""
    loss_mask_dice: float | None = None
    """Weight of the mask's Dice loss."""
    loss_selection: float | None = None
    """Weight of the selection loss."""
    loss_no_target: float | None = None
    """Weight of the no-target loss."""

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(kw_only=True)
class Train(Stage):
    """Trains the network and registers it."""

    preset: str
    """Network and recipe: tiny (CPU, minutes), vilt-b32 (the real size), vilt-b16 (finer patches)."""

    data: str
    """Data store (local folder or s3://)."""

    masks: str | None = None
    """Mask table that `precompute` filled for this data store. Not needed with --proposals none."""

    name: str
    """Name of the run."""

    out: str | None = None
    """Folder of the run (default: runs/NAME)."""

    resume: bool = False
    """Go on with the run of this name from its newest checkpoint; starts it if there is none."""

    workers: int = 1
    """Train workers (one GPU each where there are GPUs). 0: in this process, without Ray. Never changes the result."""

    proposals: Literal["table", "none"] = "table"
    """`none` trains the same network without the instance-mask modality (an ablation)."""

    proposer: str | None = None
    """PROPOSER folder to bundle with the model, so that a photo alone is enough to predict."""

    proposer_id: str | None = None
    """Which proposer's masks to use, where the mask table has several."""

    split: str = "train"
    """Split to train on."""

    validation_split: str = "val"
    """Split to validate on at every checkpoint."""

    validation_expressions: int = 128
    """Expressions to validate on, evenly spread over the split; 0 leaves validation out."""

    steps: int | None = None
    """Optimizer steps (default: the preset's)."""

    global_batch_size: int | None = None
    """Expressions in a step over all workers (default: the preset's)."""

    micro_batch_size: int | None = None
    """Expressions a worker computes in one pass at most; more are accumulated. Lower it when memory runs out."""

    learning_rate: float | None = None
    """Peak learning rate (default: the preset's)."""

    decay: Literal["cosine", "poly", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    rule: Literal["all", "one-per-ref"] = "all"
    """What an epoch is: all expressions, or one random expression of every ref."""

    proposal_dropout: float | None = None
    """Share of images whose proposals are withheld in a step (default: the preset's)."""

    seed: int = 0
    """Seed of weights, data order and everything else that is random."""

    pretrained: str | None = None
    """ViLT weights to start from: local folder or hub name; `none` for none (default: the preset's)."""

    tokenizer: str | None = None
    """Vocabulary: vocab.txt, folder or hub name; `none` makes one from the training texts (default: the preset's)."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs that have it, fp32 elsewhere."""

    checkpoint_every: int | None = None
    """Steps between checkpoints (default: a tenth of the run, at most 1000)."""

    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""

    log_every: int = 10
    """Steps between records to MLflow; every step is recorded."""

    max_failures: int = 3
    """How often a lost worker is replaced, from the newest checkpoint, before the run gives up."""

    threads: int | None = None
    """Torch threads of a worker without GPU (default: its share of the CPUs)."""

    input_cpus: float | None = None
    """CPUs for the input tasks of each worker (default: what the workers leave free, shared)."""

    allow_leaky: bool = False
    """Train although the proposer saw evaluation images; the model is labelled leaky for good."""

    register: bool = True
    """Register the finished model in MLflow as `mail-ris`."""

    model: ModelOverrides = field(default_factory=ModelOverrides)

    def _prepare(self) -> "RunPlan":
        from mail.training.run_plan import RunPlan

        return RunPlan.make(self)

    @property
    def folder(self) -> str:
        return (self.out or f"runs/{self.name}").rstrip("/")

    def plan(self) -> dict[str, Any]:
        return self._prepare().describe()

    def run(self) -> dict[str, Any]:
        """Trains to the end.

        Returns:
            `model` (folder), `version` (registered, or None), `run_id`, `steps`, `seconds`, the last step's record and
            the last validation's scores.
        """
        from pipelines.run_state import RunState

        if not self.name or "/" in self.name:
            raise UserError(f"--name {self.name!r}: a run needs a name without slashes")
        begun = time.monotonic()
        state = RunState.open(self.folder, self.name)
        start = state.find_start(self.resume)
        say(f"reading {self.data}")
        run = self._prepare()
        state.check_config(run.config)
        if state.finished and start is not None and start.step >= run.settings.steps:
            done(f"run {self.name} is finished: {start.step} steps, model in {self.folder}/model")
            return {"model": f"{self.folder}/model", **state.result}
        for line in run.summary():
            say(line)
        run_id, log = self._open_log(run, state.run_id)
        state.begin(run.config, run_id)
        lineage = run.lineage(run_id)
        try:
            last, scores = self._fit(run, state, self._job(run, start.address if start else None, lineage), log)
            model_dir = state.export_model(lineage, self.proposer)
        except BaseException:
            log.close("FAILED", timeout=5)
            raise
        log.tags({"model": model_dir})
        self._log_samples(run, log, model_dir)
        if not log.close(timeout=300):
            say("MLflow has not taken all of the run's record: it is in the folder of the run as far as it was saved")
        version = self._register(model_dir, run_id)
        result = {"version": version, "run_id": run_id, "steps": run.settings.steps, "last": last, "validation": scores}
        state.finish(result, self.keep_checkpoints)
        seconds = time.monotonic() - begun
        named = f", registered as mail-ris version {version}" if version else ""
        done(f"trained {run.settings.steps} steps in {seconds:.0f} s: {model_dir}{named}")
        return {"model": model_dir, "seconds": seconds, **result}

    def _open_log(self, run: "RunPlan", run_id: str | None) -> tuple[str, "RunLog"]:
        from pipelines.run_log import RunLog, start_run

        run_id = start_run(self.name, run.config, run.tags(), run_id)
        return run_id, RunLog(run_id, say)

    def _log_samples(self, run: "RunPlan", log: "RunLog", model_dir: str) -> None:
        from mail.data.files import local_folder
        from mail.training.validation import sample_overlays

        if run.validation is None:
            return
        with local_folder(model_dir) as folder:
            for number, picture in enumerate(sample_overlays(str(folder), run.source, run.validation)):
                log.image(picture, f"sample_{number}", run.settings.steps)

    def _register(self, model_dir: str, run_id: str) -> int | None:
        if not self.register:
            return None
        from mail.data.files import local_folder
        from pipelines.tracking import register_model

        say("registering the model")
        try:
            with local_folder(model_dir) as folder:
                return register_model(folder, run_id)
        except UserError as error:  # the training is done and must not be lost for that
            say(f"the model is not registered: {error}")
            return None

    def _job(self, run: "RunPlan", start_from: str | None, lineage: dict[str, Any]) -> "Job":
        from pipelines.train_worker import Job

        return Job(
            settings=run.settings,
            network=run.network.to_dict(),
            pretrained=run.pretrained,
            start_from=start_from,
            validation=run.validation,
            micro_batch_size=self.micro_batch_size,
            bf16={"auto": None, "fp32": False, "bf16": True}[self.precision],
            checkpoint_every=self.checkpoint_every or max(1, min(1000, -(-run.settings.steps // 10))),
            log_every=self.log_every,
            threads=self.threads or os.cpu_count() or 1,
            config=run.config,
            lineage=lineage,
        )

    def _fit(
        self, run: "RunPlan", state: "RunState", job: "Job", log: "RunLog"
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Trains; returns the last step's record and the last validation's scores."""
        from pipelines.train_progress import Mailbox, Progress, start_mailbox
        from pipelines.train_worker import here
        from pipelines.training_input import Transport

        origin = f" from {job.start_from}" if job.start_from else ""
        if self.workers == 0:
            say(f"training in this process{origin}")
            mailbox, target = Mailbox(), f"{state.checkpoints}/{state.start_name}"
            with Progress(mailbox.take, log, run.settings.steps) as progress:
                here(job, run.source, run.epochs, Transport(), mailbox, target, self.keep_checkpoints)
            return progress.last, progress.scores
        from pipelines.ray_session import connect

        with connect():
            say(f"starting {self.workers} worker(s){origin}")
            actor, take = start_mailbox()
            with Progress(take, log, run.settings.steps) as progress:
                self._fit_on_ray(run, state, job, actor)
            return progress.last, progress.scores

    def _fit_on_ray(self, run: "RunPlan", state: "RunState", job: "Job", mailbox: Any) -> None:
        import ray
        import ray.train
        from ray.train.torch import TorchTrainer

        from pipelines.training_input import Transport

        shares = share_cluster(ray.cluster_resources(), self.workers, self.input_cpus)
        job = dataclasses.replace(job, threads=self.threads or shares.threads)
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "job": ray.put((job, Transport(cpus=shares.input_cpus))),
                "shared": ray.put((run.source, run.epochs)),
                "mailbox": mailbox,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.workers,
                use_gpu=shares.gpu,
                resources_per_worker={"CPU": shares.worker_cpus} | ({"GPU": 1} if shares.gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=state.start_name,
                storage_path=state.checkpoints,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=self.keep_checkpoints),
                failure_config=ray.train.FailureConfig(max_failures=self.max_failures),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _explain(error) from error


def _train_worker(references: dict[str, Any]) -> None:
    """What a worker runs. Ray's controller unpickles it, and must not have to load the network's code for that."""
    from pipelines.train_worker import on_ray

    on_ray(**references)


@dataclass(frozen=True)
class Shares:
    """CPUs of a worker and of its input tasks, torch threads of a worker without GPU, and whether there are GPUs."""

    worker_cpus: float
    input_cpus: float
    threads: int
    gpu: bool


def share_cluster(cluster: dict[str, float], workers: int, input_cpus: float | None = None) -> Shares:
    """Shares a cluster's resources between workers and their input.

    Trainers that wait for each other must never wait for CPUs, so every worker's input has CPUs of its own.
    """
    cpus, gpu = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0) >= workers
    worker = 1.0 if cpus >= 2 * workers else max(0.1, int(50 * cpus / workers) / 100)
    free = max(cpus - worker * workers, 0.1 * workers) / workers
    own = input_cpus or (float(int(free)) if free >= 1 else int(100 * free) / 100)
    # without a GPU the network is the bottleneck; the input needs little of the cores that both use
    return Shares(worker, own, 1 if gpu else max(1, int(cpus // workers)), gpu)


def _explain(error: Exception) -> BaseException:
    """The UserError inside of what Ray Train raises, if there is one."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    causes: list[BaseException] = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    chain: BaseException | None = error
    while chain is not None:
        causes.append(chain)
        chain = chain.__cause__
    for cause in causes:
        own = getattr(cause, "cause", None) or cause  # Ray wraps what a worker raised
        if isinstance(own, UserError):
            return own
    return error
