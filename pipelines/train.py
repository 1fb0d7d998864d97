"""`mail-ris train`: data store + mask table + preset -> checkpoints, a MODEL folder, an MLflow run, a registered model.

    mail-ris train --preset tiny --data STORE --masks TABLE --name RUN [--workers N] [--resume] [--out DIR]

    OUT/run.json                     what the run is, and whether it is finished
    OUT/checkpoints/start-001/...    checkpoints, per start of the run (each `--resume` is a new start)
    OUT/overlays/step-0000300/...    pictures of some answers, as the training goes
    OUT/model/                       the finished MODEL

Killed anywhere, the same command with `--resume` goes on from the newest complete checkpoint and ends as if nothing had
happened. Lost workers and nodes are replaced without that.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mail.errors import UserError
from pipelines.stage import Stage, done, say
from pipelines.train_shares import Workers, share_cluster, share_nodes, worker_range

if TYPE_CHECKING:
    from mail.training.checkpoint import Saved
    from mail.training.run_plan import RunPlan
    from pipelines.overlays import Overlays
    from pipelines.run_log import RunLog
    from pipelines.run_state import RunState
    from pipelines.train_worker import Job

CLOSE_SECONDS = 300.0  # how long MLflow may be away at the end


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
    attention: Literal["joint", "one_way"] | None = None
    """Whether words and patches attend to instances as well (joint), or instances to them only (one_way)."""
    coverage_bias: bool | None = None
    """Attention bias between an instance and the patches that it covers."""
    paste: bool | None = None
    """Add instances to the pixels that they cover, before the decoder."""
    selection: bool | None = None
    """Head and loss that say which proposal the expression means."""
    direct: bool | None = None
    """Selected masks feed the mask logits directly."""
    pixel_share: float | None = None
    """Share of the mask losses that goes to the pixel decoder without the direct path."""
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

    workers: Workers = 1
    """Train workers (one GPU each where there are GPUs); MIN..MAX to start with what there is and grow when nodes join.
    0: in this process, without Ray. Never changes the result."""

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
    """Newest checkpoints to keep; the best on validation stays as well."""

    log_every: int = 10
    """Steps between records to MLflow; every step is recorded."""

    overlay_every: int | None = None
    """Validations from one set of four pictures of answers to the next; the last one always has them (default: about
    ten sets in the run; 0: none). The pictures are in OUT/overlays and in MLflow."""

    grow_every: float = 60.0
    """Seconds between two looks for room for more workers, with --workers MIN..MAX."""

    max_failures: int = 3
    """How often a lost worker is replaced, from the newest checkpoint, before the run gives up."""

    threads: int | None = None
    """Torch threads of a worker without GPU (default: its share of the CPUs)."""

    input_cpus: float | None = None
    """CPUs for the input tasks of each worker (default: what the workers leave free, shared)."""

    compile: bool = False
    """Compile the network (torch.compile): needs a C++ compiler, and a minute or more at each start."""

    allow_leaky: bool = False
    """Train although the proposer saw evaluation images; the model is labelled leaky for good."""

    parent_run: str | None = None
    """MLflow run that this one is shown under (`mail-ris tune` sets it)."""

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

    def run(self, validated: Callable[[dict[str, float]], None] | None = None) -> dict[str, Any]:
        """Trains to the end.

        Args:
            validated: is called with the step and the scores of each validation.

        Returns:
            `model` (folder), `version` (registered, or None), `run_id`, `steps`, `seconds`, the last step's record and
            the last validation's scores.
        """
        from pipelines.overlays import Overlays
        from pipelines.run_state import RunState

        if not self.name or "/" in self.name:
            raise UserError(f"--name {self.name!r}: a run needs a name without slashes")
        begun = time.monotonic()
        state = RunState.open(self.folder, self.name)
        start = state.find_start(self.resume)
        worker_range(self.workers)
        say(f"reading {self.data}")
        run = self._prepare()
        state.check_config(run.config)
        if state.finished and start is not None and start.step >= run.settings.steps:
            self._complete_record(state, start)
            done(f"run {self.name} is finished: {start.step} steps, model in {self.folder}/model")
            return {"model": f"{self.folder}/model", **state.result}
        for line in run.summary():
            say(line)
        if start is not None:
            say(f"going on from {start.address}")
        state.begin(run.config)
        run_id, log = self._open_log(run, state)
        state.recorded_as(run_id)
        lineage = run.lineage(run_id)
        try:
            overlays = Overlays(f"{state.folder}/overlays")
            overlays.log(log)  # what a driver that was killed did not get to log
            last, scores = self._fit(run, state, self._job(run, state, lineage), log, validated, overlays)
            model_dir = state.export_model(lineage, self.proposer)
        except BaseException:
            log.close("FAILED", timeout=5)
            raise
        log.tags({"model": model_dir})
        recorded = log.close(timeout=CLOSE_SECONDS)
        if not recorded:
            say("MLflow has not taken all of the run's record: give the same command with --resume once it is back")
        version = self._register(model_dir, run_id)
        result = {"version": version, "run_id": run_id, "steps": run.settings.steps, "last": last, "validation": scores}
        state.finish(result | {"best": state.best(), "recorded": recorded}, self.keep_checkpoints)
        seconds = time.monotonic() - begun
        named = f", registered as mail-ris version {version}" if version else ""
        done(f"trained {run.settings.steps} steps in {seconds:.0f} s: {model_dir}{named}")
        return {"model": model_dir, "seconds": seconds, **state.result}

    def _complete_record(self, state: "RunState", newest: "Saved") -> None:
        """Gives MLflow the curves of a finished run that it was away for."""
        from mail.data.files import local_folder
        from mail.training.curves import Curves
        from pipelines.overlays import Overlays
        from pipelines.run_log import RunLog

        if state.result.get("recorded", True) or state.run_id is None:
            return
        log = RunLog(state.run_id, say)
        with local_folder(newest.address) as folder:
            for kind, records in Curves.load(folder).by_kind():
                log.metrics(records, f"{kind}/")
        Overlays(f"{state.folder}/overlays").log(log)
        log.tags({"model": f"{self.folder}/model"})
        if log.close(timeout=CLOSE_SECONDS):
            state.finish(state.result | {"recorded": True}, self.keep_checkpoints)
            say("MLflow has the whole record now")

    def _open_log(self, run: "RunPlan", state: "RunState") -> tuple[str, "RunLog"]:
        from pipelines.run_log import RunLog, start_run

        parent = {"mlflow.parentRunId": self.parent_run} if self.parent_run else {}
        run_id = start_run(self.name, run.config, run.tags() | parent, state.run_id, state.key)
        return run_id, RunLog(run_id, say)

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

    def _job(self, run: "RunPlan", state: "RunState", lineage: dict[str, Any]) -> "Job":
        from mail.model import describe
        from pipelines.overlays import default_every
        from pipelines.train_worker import Job

        every = self.checkpoint_every or max(1, min(1000, -(-run.settings.steps // 10)))
        shown = default_every(run.settings.steps, every) if self.overlay_every is None else self.overlay_every
        return Job(
            name=self.name,
            settings=run.settings,
            network=run.network.to_dict(),
            pretrained=run.pretrained,
            checkpoints=state.checkpoints,
            validation=run.validation,
            micro_batch_size=self.micro_batch_size,
            bf16={"auto": None, "fp32": False, "bf16": True}[self.precision],
            checkpoint_every=every,
            log_every=self.log_every,
            overlays=f"{state.folder}/overlays",
            overlay_every=shown,
            threads=self.threads or os.cpu_count() or 1,
            compile=self.compile,
            step_flops=3.0 * describe(run.network)["forward_flops_per_expression"],
            config=run.config,
            lineage=lineage,
        )

    def _fit(
        self,
        run: "RunPlan",
        state: "RunState",
        job: "Job",
        log: "RunLog",
        validated: Callable[[dict[str, float]], None] | None,
        overlays: "Overlays",
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Trains; returns the last step's record and the last validation's scores."""
        from mail.training.checkpoint import prune
        from pipelines.train_progress import Mailbox, Progress, start_mailbox
        from pipelines.train_worker import here
        from pipelines.training_input import Transport

        def tidy() -> None:
            prune(state.checkpoints, self.keep_checkpoints)

        def drawn(step: int) -> None:
            overlays.log(log, step)

        told: Any = (log, run.settings.steps, tidy, validated, drawn)

        if worker_range(self.workers) == (0, 0):
            mailbox, target = Mailbox(), f"{state.checkpoints}/{state.start_name}"
            with Progress(mailbox.take, *told) as progress:
                here(job, run.source, run.epochs, Transport(), mailbox, target)
            return progress.last, progress.scores
        from pipelines.ray_session import connect

        with connect():
            say(f"starting {self.workers} worker(s)")
            actor, take = start_mailbox()
            with Progress(take, *told) as progress:
                self._fit_on_ray(run, state, job, actor)
            return progress.last, progress.scores

    def _fit_on_ray(self, run: "RunPlan", state: "RunState", job: "Job", mailbox: Any) -> None:
        import ray
        import ray.train
        from ray.train.torch import TorchTrainer

        from mail.data import files
        from pipelines.train_watch import Watch
        from pipelines.training_input import Transport

        fewest, most = worker_range(self.workers)
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
        share = share_nodes if fewest < most else share_cluster
        shares = share(nodes, most, self.input_cpus)
        job = dataclasses.replace(job, threads=self.threads or shares.threads)
        filesystem, path = files.resolve(state.checkpoints)
        config: Any = ray.train  # its own stubs are those of the older interface
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "job": ray.put((job, Transport(cpus=shares.input_cpus))),
                "shared": ray.put((run.source, run.epochs)),
                "mailbox": mailbox,
            },
            scaling_config=config.ScalingConfig(
                num_workers=most if fewest == most else (fewest, most),
                use_gpu=shares.gpu,
                resources_per_worker={"CPU": shares.worker_cpus} | ({"GPU": 1} if shares.gpu else {}),
                placement_strategy="PACK" if shares.gpu else "SPREAD",  # GPUs talk fastest inside of a node
                elastic_resize_monitor_interval_s=self.grow_every,
            ),
            run_config=config.RunConfig(
                name=state.start_name,
                storage_path=path,
                storage_filesystem=filesystem,
                # `prune` deletes the others, and keeps the best besides the newest
                checkpoint_config=config.CheckpointConfig(num_to_keep=None),
                failure_config=config.FailureConfig(max_failures=self.max_failures),
                callbacks=[Watch(self.name, mailbox)],
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


def _explain(error: Exception) -> BaseException:
    """The UserError inside of what Ray Train raises, if there is one."""
    from ray.train import ControllerError, WorkerGroupError

    from pipelines.train_watch import own

    causes: list[BaseException] = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    causes += [error.controller_failure] if isinstance(error, ControllerError) else []
    chain: BaseException | None = error
    while chain is not None:
        causes.append(chain)
        chain = chain.__cause__
    return next((e for e in map(own, causes) if isinstance(e, UserError)), error)
