"""`mail-ris tune`: a sweep over any options of `train`, with Ray Tune; trials that fall behind end early (ASHA).

    mail-ris tune --name STUDY --trials 12 --space learning-rate=log:1e-4:1e-2 model.decoder-dim=16,24,32 \
        --preset tiny --data STORE --masks TABLE

    OUT/study.json                   what the study is, and its result
    OUT/trials/ID/                   the folder of each trial's run, as `train` leaves it
    OUT/tune/                        what Ray Tune remembers

Each trial is a run of `train`, shown in MLflow under one run of the study. Killed anywhere, the same command with
`--resume` goes on: finished trials stay, interrupted ones go on from their newest checkpoints.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from mail.errors import UserError
from pipelines.stage import done, say
from pipelines.stages.train import ModelOverrides, Train
from pipelines.training.shares import Workers

if TYPE_CHECKING:
    from ray.tune import ResultGrid


@dataclass(kw_only=True)
class Tune(Train):
    """Trains many times, over ranges of any option of `train`; trials that fall behind end early."""

    space: tuple[str, ...]
    """What to vary: OPTION=A,B,C (one of them), OPTION=LOW:HIGH or OPTION=log:LOW:HIGH, with the options of `train`."""

    trials: int = 8
    """Number of trials."""

    metric: Literal["oIoU", "mIoU", "prec_50"] = "oIoU"
    """Validation score to compare by."""

    grace: float = 0.25
    """Share of the steps that every trial is given before it can be ended."""

    reduction: int = 3
    """Of so many trials at the same step, one goes on."""

    concurrent: int | None = None
    """Trials at the same time at most (default: as many as the cluster has room for)."""

    trial_cpus: float = 1.0
    """CPUs of a trial that trains in its own process (--workers 0)."""

    workers: Workers = 0
    """Train workers of each trial. 0: a trial trains in its own process, on one GPU where there are GPUs."""

    register: bool = False
    """Register every trial's model that is trained to the end."""

    def plan(self) -> dict[str, Any]:
        return {"space": {k: v.describe() for k, v in self._ranges().items()}, "trials": self.trials, **super().plan()}

    def run(self, validated: Callable[[dict[str, float]], None] | None = None) -> dict[str, Any]:
        """Runs all trials.

        Returns:
            `run_id` of the study, `best` (trial, score, options, folder), `results` (of all trials, best first).
        """
        from mail.data import files
        from pipelines.cluster_session.session import connect
        from pipelines.registry.run_log import start_run

        ranges = self._ranges()
        if not self.name or "/" in self.name:
            raise UserError(f"--name {self.name!r}: a study needs a name without slashes")
        filesystem, root = files.resolve(self.folder)
        address = self.folder if self.folder.startswith("s3://") else root
        study = {"name": self.name, "space": {k: v.describe() for k, v in ranges.items()}, "trials": self.trials}
        run_id = None
        if files.exists(filesystem, f"{root}/study.json"):
            before = json.loads(files.read_bytes(filesystem, f"{root}/study.json"))
            if not self.resume:
                raise UserError(f"study {self.name} is in {self.folder}: go on with --resume, or give another --name")
            if changed := [k for k in study if before[k] != study[k]]:
                raise UserError(
                    f"study {self.name} cannot go on with another {', '.join(changed)}: give another --name"
                )
            run_id = before["run_id"]
        run = self._prepare()  # wrong options end the study here, not in each trial
        steps = run.settings.steps
        run_id = start_run(self.name, {"study": study, **run.config}, run.tags() | {"kind": "study"}, run_id)
        files.write_bytes(filesystem, f"{root}/study.json", json.dumps(study | {"run_id": run_id}).encode())
        with connect():
            say(f"{self.trials} trials of at most {steps} steps")
            grid = self._fit(ranges, address, run_id, steps)
        return self._conclude(grid, address, run_id, study)

    def trial(self, options: dict[str, Any], address: str, trial_id: str, run_id: str) -> Train:
        """The run of `train` that a trial is."""
        own = {f.name: getattr(self, f.name) for f in fields(Train)}
        model = {k.removeprefix("model."): v for k, v in options.items() if k.startswith("model.")}
        own |= {k: v for k, v in options.items() if not k.startswith("model.")}
        own |= {"name": f"{self.name}-{trial_id}", "out": f"{address}/trials/{trial_id}", "resume": True}
        own |= {"parent_run": run_id, "model": replace(self.model, **model), "dry_run": False}
        return Train(**own)

    def _ranges(self) -> dict[str, "Range"]:
        ranges = [Range.parse(text) for text in self.space]
        if not ranges:
            raise UserError("--space is empty: name at least one option to vary, such as learning-rate=log:1e-4:1e-2")
        if self.trials < 1 or not 0 < self.grace <= 1 or self.reduction < 2:
            raise UserError("--trials must be at least 1, --grace between 0 and 1, --reduction at least 2")
        return {r.option: r for r in ranges}

    def _fit(self, ranges: dict[str, "Range"], address: str, run_id: str, steps: int) -> "ResultGrid":  # type: ignore[override]
        import ray
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.basic_variant import BasicVariantGenerator

        from mail.data import files
        from pipelines.registry.tracking import tracking_uri

        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        resources: dict[str, float] = (
            {"cpu": self.trial_cpus, "gpu": 1 if gpus else 0} if str(self.workers) == "0" else {"cpu": 0}
        )
        base = {"stage": self, "address": address, "run_id": run_id, "steps": steps, "tracking_uri": tracking_uri()}
        trainable = tune.with_resources(tune.with_parameters(_trial, **base), resources)
        filesystem, path = files.resolve(f"{address}/tune")
        where = {"storage_filesystem": filesystem}
        if tune.Tuner.can_restore(f"{path}/study", **where):
            return tune.Tuner.restore(
                f"{path}/study", trainable, resume_unfinished=True, restart_errored=True, **where
            ).fit()
        tuner = tune.Tuner(
            trainable,
            param_space={option: r.sampler() for option, r in ranges.items()},
            tune_config=tune.TuneConfig(
                metric=self.metric,
                mode="max",
                num_samples=self.trials,
                search_alg=BasicVariantGenerator(random_state=self.seed, max_concurrent=self.concurrent or 0),
                scheduler=ASHAScheduler(
                    time_attr="step",
                    max_t=steps,
                    grace_period=max(1, round(self.grace * steps)),
                    reduction_factor=self.reduction,
                ),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=path,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                **where,
            ),
        )
        return tuner.fit()

    def _conclude(self, grid: "ResultGrid", address: str, run_id: str, study: dict[str, Any]) -> dict[str, Any]:
        from mail.data import files
        from pipelines.registry.run_log import RunLog, flatten

        trials = []
        for number in range(len(grid)):
            ended = grid[number]
            metrics = ended.metrics or {}
            trial_id = metrics.get("trial_id", "")
            found = {"trial": trial_id, "score": metrics.get(self.metric), "step": metrics.get("step")}
            found |= {"options": ended.config, "folder": f"{address}/trials/{trial_id}"}
            trials.append(found | {"error": str(ended.error).splitlines()[-1] if ended.error else None})
        trials.sort(key=lambda t: (1.0 if t["score"] is None else -t["score"], t["trial"]))  # the first of equals
        if not trials or trials[0]["score"] is None:
            reason = next((t["error"] for t in trials if t["error"]), "no trial came to a validation")
            raise UserError(f"no trial of study {self.name} has a score: {reason}")
        best = trials[0]
        _end_children(run_id, {f"{self.name}-{t['trial']}" for t in trials if t["error"] is None})
        log = RunLog(run_id, say)
        log.metrics([{"step": 0, self.metric: best["score"]}], "best/")
        log.tags({f"best.{k}": v for k, v in flatten(best["options"]).items()} | {"best.trial": best["trial"]})
        log.close()
        for trial in trials[:10]:
            options = ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial["options"].items()
            )
            score = (
                "no score" if trial["score"] is None else f"{self.metric} {trial['score']:.4f} at step {trial['step']}"
            )
            say(f"{trial['trial']}: {score}; {options}")
        filesystem, root = files.resolve(self.folder)
        result = {"run_id": run_id, "best": best, "results": trials}
        files.write_bytes(filesystem, f"{root}/study.json", json.dumps(study | result, indent=2, default=str).encode())
        done(
            f"{len(trials)} trials; the best, {best['trial']}, has {self.metric} {best['score']:.4f}: {best['folder']}"
        )
        return result


@dataclass(frozen=True)
class Range:
    """What an option may be in a trial.

    Attributes:
        option: name of a field of `Train`, dotted for the network's. choices: values, or the ends of a range.
        kind: `choice`, `uniform` or `log`.
    """

    option: str
    kind: str
    choices: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Reads OPTION=A,B,C, OPTION=LOW:HIGH or OPTION=log:LOW:HIGH.

        Raises:
            UserError: the option does not exist, a value does not fit it, or it is no range.
        """
        name, equals, values = text.partition("=")
        option = name.strip().removeprefix("--").replace("-", "_")
        known = {f.name for f in fields(Train)} - {"model", "name", "out", "resume", "dry_run", "parent_run", "workers"}
        known |= {f"model.{f.name}" for f in fields(ModelOverrides)}
        if not equals or not values:
            raise UserError(f"--space {text!r}: write OPTION=A,B,C or OPTION=LOW:HIGH or OPTION=log:LOW:HIGH")
        if option not in known:
            import difflib

            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`mail-ris train --help` lists the options"
            raise UserError(f"--space {text!r}: `train` has no option {name.strip()} that can vary; {hint}")
        kind, parts = "choice", values.split(",")
        if ":" in values and len(parts) == 1:
            *marks, low, high = values.split(":")
            if marks not in ([], ["log"]):
                raise UserError(f"--space {text!r}: a range is LOW:HIGH or log:LOW:HIGH")
            kind, parts = ("log" if marks else "uniform"), [low, high]
        found = tuple(_value(option, part.strip(), text) for part in parts)
        if kind != "choice":
            if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in found) or found[0] >= found[1]:
                raise UserError(f"--space {text!r}: a range needs two numbers, the lower one first")
            if kind == "log" and found[0] <= 0:
                raise UserError(f"--space {text!r}: a logarithmic range begins above 0")
        return cls(option, kind, found)

    def describe(self) -> list[Any]:
        return [self.kind, *self.choices]

    def sampler(self) -> Any:
        from ray import tune

        if self.kind == "choice":
            return tune.choice(list(self.choices))
        low, high = self.choices
        if isinstance(low, int) and isinstance(high, int):
            return tune.randint(low, high + 1) if self.kind == "uniform" else tune.lograndint(low, high + 1)
        return tune.uniform(low, high) if self.kind == "uniform" else tune.loguniform(low, high)


def _value(option: str, text: str, where: str) -> Any:
    """A value as `train`'s own command line would read it."""
    import contextlib
    import io

    import tyro

    required = ["--preset", "p", "--data", "d", "--name", "n"]
    own = next((i for i, a in enumerate(required) if a == f"--{option}"), None)
    if own is not None:
        del required[own : own + 2]
    flag = f"--{option.replace('_', '-')}"
    *path, last = flag.split(".")
    spellings = [[flag, text]]
    if text in ("true", "false"):
        negative = ".".join([*path, f"no-{last}"]) if path else f"--no-{last[2:]}"
        spellings = [[flag, text.capitalize()], [flag if text == "true" else negative]]
    for spelling in spellings:
        with (
            contextlib.suppress(SystemExit),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            stage = tyro.cli(Train, args=[*required, *spelling])
            break
    else:
        raise UserError(f"--space {where!r}: {text!r} is no value of {option}")
    value: Any = stage
    for part in option.split("."):
        value = getattr(value, part)
    return value


def _trial(config: dict[str, Any], stage: Tune, address: str, run_id: str, steps: int, tracking_uri: str) -> None:
    """Runs in a trial's process: trains, and tells Ray Tune of each validation."""
    from ray import tune

    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    trial_id = tune.get_context().get_trial_id() or "trial"

    last = config.get("steps", steps)

    def tell(record: dict[str, float]) -> None:
        tune.report({**record, "trial_id": trial_id})

    def validated(record: dict[str, float]) -> None:
        if record["step"] < last:  # at the last step the scheduler would end the trial before its model is there
            tell(record)

    train = stage.trial(config, address, trial_id, run_id)
    if train.threads is None and str(train.workers) == "0":
        train.threads = max(1, int(stage.trial_cpus))
    result = train.run(validated)
    # a trial that was finished, but whose end Ray Tune did not hear of, has nothing to train and nothing to validate
    tell({"step": result["steps"], **result["validation"]})


def _end_children(run_id: str, names: set[str]) -> None:
    """Marks trials that were ended early as what they are: stopped processes say that they failed, or nothing."""
    from pipelines.registry.tracking import connect

    client = connect()
    experiment = client.get_run(run_id).info.experiment_id
    for child in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", max_results=1000):
        if child.info.status != "FINISHED" and child.info.run_name in names:
            client.set_tag(child.info.run_id, "ended_early", "true")
            client.set_terminated(child.info.run_id, "FINISHED")
