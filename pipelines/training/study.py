"""A study: many trainings over ranges of options, with Ray Tune, shown in MLflow under one run.

OUT/study.json                   what the study is, and its result
OUT/trials/ID/                   the folder of each trial's run, as `train` leaves it
OUT/tune/                        what Ray Tune remembers
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

from mail import addresses, json_text
from mail.data import files
from mail.errors import UserError
from pipelines import ending
from pipelines.claiming.claim import Claim, Ticket
from pipelines.cluster_session.session import connect
from pipelines.registry.client import connect as mlflow_client
from pipelines.registry.client import environment
from pipelines.registry.datasets import training_inputs
from pipelines.registry.run_log import RunLog, flatten, start_run
from pipelines.terminal import done, say
from pipelines.training.config import StudyConfig, TrainConfig
from pipelines.training.driver import prepare, train
from pipelines.training.space import Range, read_space

REFUSED = "refused"  # what a trial tells that met a wrong input: why


def study(config: StudyConfig) -> dict[str, Any]:
    """Runs all trials, or goes on with a study that was interrupted.

    Returns:
        `run_id` of the study, `best` (trial, score, options, folder), `results` (of all trials, best first).

    Raises:
        UserError: an option is wrong, no trial has a score, or another process has the study.
    """
    with Claim(config.folder, f"study {config.name}", "another --name") as claim:
        return _study(config, claim)


def _study(config: StudyConfig, claim: Ticket) -> dict[str, Any]:
    ranges = read_space(config)
    address = config.folder
    filesystem, root = files.resolve(address)
    facts = {"name": config.name, "space": {k: v.describe() for k, v in ranges.items()}, "trials": config.trials}
    run_id = None
    if files.exists(filesystem, f"{root}/study.json"):
        before = json_text.read_record(
            f"{address}/study.json", files.read_bytes(filesystem, f"{root}/study.json"), *facts, "run_id"
        )
        if not config.resume:
            raise UserError(f"study {config.name} is in {config.folder}: go on with --resume, or give another --name")
        if changed := [k for k in facts if before[k] != facts[k]]:
            raise UserError(f"study {config.name} cannot go on with another {', '.join(changed)}: give another --name")
        if "results" in before:
            best = before["best"]
            done(f"study {config.name} is finished; the best of {len(before['results'])} trials: {best['folder']}")
            return {key: before[key] for key in ("run_id", "best", "results")}
        run_id = before["run_id"]
        lost = not files.exists(filesystem, f"{root}/tune") and files.exists(filesystem, f"{root}/trials")
        if lost:
            say(f"what Ray Tune knew of the trials, {address}/tune, is gone: they begin anew, the earlier ones stay")
    run, _, _ = prepare(config)  # wrong options end the study here, not in each trial
    steps = run.settings.steps
    params, tags = {"study": facts, **run.config}, run.tags() | {"kind": "study"}
    inputs = training_inputs(run.store, run.snapshot)
    with connect():
        begun: str | None = None
        try:
            with ending.postponed():  # or MLflow would have a run that nobody ends
                begun = run_id = start_run(config.name, params, tags, run_id, inputs=inputs)
                files.write_bytes(filesystem, f"{root}/study.json", json.dumps(facts | {"run_id": run_id}).encode())
            say(f"{config.trials} trials of at most {steps} steps")
            # Ray Tune would take Ctrl-C for itself in the main thread
            grid = ending.in_thread(partial(_fit, config, ranges, address, run_id, steps))
            claim.check()
            return _conclude(config, grid, address, run_id, facts)
        except BaseException as error:
            if begun is not None and not claim.is_lost():  # whoever has it now says how it ends
                with contextlib.suppress(Exception):  # MLflow is away: the next start says it
                    _end_runs(begun, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise


def trial_config(study: StudyConfig, options: dict[str, Any], address: str, trial_id: str, run_id: str) -> TrainConfig:
    """The training that a trial is.

    Args:
        options: what the trial varies, dotted for the network's. address: folder of the study. run_id: of the study.
    """
    own = {f.name: getattr(study, f.name) for f in fields(TrainConfig)}
    model = {k.removeprefix("model."): v for k, v in options.items() if k.startswith("model.")}
    own |= {k: v for k, v in options.items() if not k.startswith("model.")}
    own |= {"name": f"{study.name}-{trial_id}", "out": addresses.join(address, "trials", trial_id), "resume": True}
    return TrainConfig(**own | {"parent_run": run_id, "model": replace(study.model, **model)})


def _fit(config: StudyConfig, ranges: dict[str, Range], address: str, run_id: str, steps: int) -> Any:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    gpus = ray.cluster_resources().get("GPU", 0) > 0
    resources: dict[str, float] = (
        {"cpu": config.trial_cpus, "gpu": 1 if gpus else 0} if str(config.workers) == "0" else {"cpu": 0}
    )
    base = {"study": config, "address": address, "run_id": run_id, "steps": steps, "mlflow": environment()}
    trainable = tune.with_resources(tune.with_parameters(_trial, **base), resources)
    filesystem, path = files.resolve(addresses.join(address, "tune"))
    where = {"storage_filesystem": filesystem}
    if tune.Tuner.can_restore(f"{path}/study", **where):
        return tune.Tuner.restore(
            f"{path}/study", trainable, resume_unfinished=True, restart_errored=True, **where
        ).fit()
    tuner = tune.Tuner(
        trainable,
        param_space={option: r.sampler() for option, r in ranges.items()},
        tune_config=tune.TuneConfig(
            metric=config.metric,
            mode="max",
            num_samples=config.trials,
            search_alg=BasicVariantGenerator(random_state=config.seed, max_concurrent=config.concurrent or 0),
            scheduler=ASHAScheduler(
                time_attr="step",
                max_t=steps,
                grace_period=max(1, round(config.grace * steps)),
                reduction_factor=config.reduction,
            ),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="study",
            storage_path=path,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.max_failures),
            **where,
        ),
    )
    return tuner.fit()


def _conclude(config: StudyConfig, grid: Any, address: str, run_id: str, study: dict[str, Any]) -> dict[str, Any]:
    trials = []
    for number in range(len(grid)):
        ended = grid[number]
        metrics = ended.metrics or {}
        trial_id = metrics.get("trial_id", "")
        found = {"trial": trial_id, "score": metrics.get(config.metric), "step": metrics.get("step")}
        found |= {"options": ended.config, "folder": addresses.join(address, "trials", trial_id)}
        error = str(ended.error).splitlines()[-1] if ended.error else metrics.get(REFUSED)
        trials.append(found | {"error": error} | ({"score": None} if REFUSED in metrics else {}))
    trials.sort(key=lambda t: (1.0 if t["score"] is None else -t["score"], t["trial"]))  # the first of equals
    if not trials or trials[0]["score"] is None:
        reason = next((t["error"] for t in trials if t["error"]), "no trial came to a validation")
        raise UserError(f"no trial of study {config.name} has a score: {reason}")
    best = trials[0]
    _end_children(run_id, {f"{config.name}-{t['trial']}" for t in trials if t["error"] is None})
    log = RunLog(run_id, say)
    log.metrics([{"step": 0, config.metric: best["score"]}], "best/")
    log.tags({f"best.{k}": v for k, v in flatten(best["options"]).items()} | {"best.trial": best["trial"]})
    log.close()
    for trial in trials[:10]:
        options = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial["options"].items())
        score = (
            f"no score ({trial['error'] or 'ended before a validation'})"
            if trial["score"] is None
            else f"{config.metric} {trial['score']:.4f} at step {trial['step']}"
        )
        say(f"{trial['trial']}: {score}; {options}")
    filesystem, root = files.resolve(config.folder)
    result = {"run_id": run_id, "best": best, "results": trials}
    files.write_bytes(filesystem, f"{root}/study.json", json.dumps(study | result, indent=2, default=str).encode())
    done(f"{len(trials)} trials; the best, {best['trial']}, has {config.metric} {best['score']:.4f}: {best['folder']}")
    return result


def _trial(
    options: dict[str, Any], study: StudyConfig, address: str, run_id: str, steps: int, mlflow: dict[str, str]
) -> None:
    """Runs in a trial's process: trains, and tells Ray Tune of each validation."""
    from ray import tune

    os.environ.update(mlflow)
    trial_id = tune.get_context().get_trial_id() or "trial"

    last = options.get("steps", steps)

    def tell(record: Mapping[str, Any]) -> None:
        tune.report({**record, "trial_id": trial_id})

    def validated(record: dict[str, float]) -> None:
        if record["step"] < last:  # at the last step the scheduler would end the trial before its model is there
            tell(record)

    config = trial_config(study, options, address, trial_id, run_id)
    if config.threads is None and str(config.workers) == "0":
        config.threads = max(1, int(study.trial_cpus))
    try:
        result = train(config, validated)
    except UserError as error:  # an error of the trial would have Ray Tune start it again
        tell({"step": 0, study.metric: math.nan, REFUSED: str(error)})
        return
    # a trial that was finished, but whose end Ray Tune did not hear of, has nothing to train and nothing to validate
    tell({"step": result["steps"], **result["validation"]})


def _end_runs(run_id: str, status: str) -> None:
    """Marks the study and its trials as killed or failed, for their processes have no time left to say so."""
    client = mlflow_client()
    experiment = client.get_run(run_id).info.experiment_id
    for child in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", max_results=1000):
        if child.info.status == "RUNNING":
            client.set_terminated(child.info.run_id, status)
    client.set_terminated(run_id, status)


def _end_children(run_id: str, names: set[str]) -> None:
    """Marks trials that were ended early as what they are: stopped processes say that they failed, or nothing."""
    client = mlflow_client()
    experiment = client.get_run(run_id).info.experiment_id
    for child in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'", max_results=1000):
        if child.info.status != "FINISHED" and child.info.run_name in names:
            client.set_tag(child.info.run_id, "ended_early", "true")
            client.set_terminated(child.info.run_id, "FINISHED")
