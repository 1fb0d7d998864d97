"""Evaluations kept in MLflow: figures as metrics of the logged model, the counts behind them with its run.

So that MLflow finds and compares models by them, and whoever promotes next week, elsewhere, compares with the
champion's counts instead of evaluating it again. A metric is called `SPLIT/FIGURE` (`testA/oIoU`), by a protocol other
than `original` `SPLIT/PROTOCOL/FIGURE`, and carries name and digest of the data store:

    mlflow.search_logged_models(
        filter_string="metrics.`testA/oIoU` > 0.5 AND metrics.`testA/leaky` = 0",
        datasets=[{"dataset_name": "refcoco", "dataset_digest": DIGEST}],
        order_by=[{"field_name": "metrics.testA/oIoU", "ascending": False}],
    )
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.registry.client import answers, connect
from pipelines.registry.comparison import KEPT
from pipelines.registry.datasets import short_digest
from pipelines.registry.dead_runs import end_dead_runs
from pipelines.registry.models import MODEL_NAME, SCHEME, Version, find_version
from pipelines.registry.run_log import flatten

FOLDER = "evaluations"  # among the run's artifacts
COUNTS = "per_expression.jsonl"
PLAIN = "original"  # the protocol that goes without saying
PREC = "prec."


def log_evaluation(
    model: str | int, metrics: Mapping[str, Any], name: str = MODEL_NAME, folder: str | os.PathLike | None = None
) -> None:
    """Notes an evaluation on the logged model of a registered version, and on its run.

    Args:
        model: a version's number, or its address (`models:/mail-ris@champion`); a folder is left alone.
        metrics: as `metrics.json` has them: `protocol, split, expressions, oIoU, mIoU, prec`, and what else there is.
        folder: where `per_expression.jsonl` is, kept with the run together with the figures.
    """
    from mlflow.entities import Metric

    if isinstance(model, str) and not model.startswith(SCHEME):
        return
    with answers():
        client = connect()
        version = find_version(model if isinstance(model, str) else f"{SCHEME}{name}/{model}")
        if not version.run_id or not version.model_id:
            return  # registered by other means than `register_model`
        end_dead_runs(client, client.get_run(version.run_id).info.experiment_id)
        split, protocol, store = metrics["split"], metrics["protocol"], metrics["data_store"]
        prefix = f"{split}/" if protocol == PLAIN else f"{split}/{protocol}/"
        of = {
            "model_id": version.model_id,
            "dataset_name": store["name"],
            "dataset_digest": short_digest(store["digest"]),
        }
        now = int(time.time() * 1000)
        figures = flatten({k: metrics[k] for k in (*KEPT, "leaky") if k in metrics})
        known = [Metric(prefix + k, float(v), now, 0, **of) for k, v in figures.items() if v is not None]
        client.log_batch(version.run_id, metrics=known)
        if folder is not None:
            _upload(client, version.run_id, metrics, Path(folder), f"{split}.{protocol}.{store['digest'][:12]}")


def _upload(client: Any, run_id: str, metrics: Mapping[str, Any], folder: Path, name: str) -> None:
    model = ((metrics.get("model") or {}).get("digest") or "")[:12]
    target = f"{FOLDER}/{name}.{model}"
    small = {k: v for k, v in metrics.items() if k not in ("per_expression", "slices")}
    with tempfile.TemporaryDirectory() as temporary:
        figures = Path(temporary) / "metrics.json"
        figures.write_text(json.dumps(small, indent=2, default=str))
        client.log_artifact(run_id, str(folder / COUNTS), target)
        client.log_artifact(run_id, str(figures), target)


def logged_evaluations(version: Version) -> list[Path]:
    """Local folders with the evaluations that are kept with a version's run."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if not version.run_id:
        return []
    try:
        if not connect().list_artifacts(version.run_id, FOLDER):
            return []
        return [Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=FOLDER))]
    except MlflowException:  # the run is gone: nothing is kept with it
        return []


def noted(version: Version) -> list[dict[str, Any]]:
    """The newest evaluation of a version by split, protocol and data store; keys as in `metrics.json`."""
    if not version.model_id:
        return []
    with answers():
        metrics = connect().get_logged_model(version.model_id).metrics or []
    found: dict[tuple, dict[str, Any]] = {}
    for metric in sorted(metrics, key=lambda m: m.timestamp):
        if metric.dataset_name is None:  # a curve's: MLflow links those of step 0 by itself
            continue
        split, *protocol, figure = metric.key.split("/")
        of = (split, protocol[0] if protocol else PLAIN, metric.dataset_name, metric.dataset_digest)
        found.setdefault(of, {})[figure] = metric.value
    return [
        {"split": split, "protocol": protocol, "data_store": {"name": store, "digest": digest}}
        | {k: v for k, v in figures.items() if not k.startswith(PREC)}
        | {"expressions": int(figures["expressions"]), "leaky": bool(figures.get("leaky"))}
        | {"prec": {k.removeprefix(PREC): v for k, v in figures.items() if k.startswith(PREC)}}
        for (split, protocol, store, digest), figures in sorted(found.items())
    ]


def scores_line(version: Version) -> str:
    """ "testA 61.20 (1,975 expressions, original, 0123456789ab), ...": oIoU in points, and what it is of."""
    return ", ".join(
        f"{m['split']} {100 * m['oIoU']:.2f} ({m['expressions']} expressions, {m['protocol']}, "
        f"{m['data_store']['digest'][:12]}{', LEAKY' if m['leaky'] else ''})"
        for m in noted(version)
        if "oIoU" in m
    )


def evaluation_lines(version: Version) -> Iterator[str]:
    """The noted evaluations, each with what its numbers are of."""
    for m in noted(version):
        store = m["data_store"]
        numbers = ", ".join(f"{k} {100 * m[k]:.2f}" for k in ("oIoU", "mIoU") if k in m)
        yield (
            f"{m['split']}: {numbers} ({m['expressions']} expressions, protocol {m['protocol']}, "
            f"data store {store['name']} {store['digest'][:12]}{', LEAKY' if m['leaky'] else ''})"
        )
