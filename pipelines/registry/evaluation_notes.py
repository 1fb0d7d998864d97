"""Evaluations noted in MLflow: figures as a tag of the registered version, the counts behind them with its run.

So that whoever promotes next week, elsewhere, compares with the champion's counts instead of evaluating it again.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.registry.client import answers, connect
from pipelines.registry.models import MODEL_NAME, SCHEME, Version, find_version

FOLDER = "evaluations"  # among the run's artifacts
COUNTS = "per_expression.jsonl"
CARRIED = ("protocol", "split", "expressions", "oIoU", "mIoU", "prec", "data_store", "leaky", "code_version")


def log_evaluation(
    model: str | int, metrics: Mapping[str, Any], name: str = MODEL_NAME, folder: str | os.PathLike | None = None
) -> None:
    """Notes an evaluation on a registered version, as the tag `metrics.SPLIT.PROTOCOL`, and on its run.

    Args:
        model: a version's number, or its address (`models:/mail-ris@champion`); a folder is left alone.
        metrics: as `metrics.json` has them: `protocol, split, expressions, oIoU, mIoU, prec`, and what else there is.
        folder: where `per_expression.jsonl` is, kept with the run together with the figures.
    """
    if isinstance(model, str) and not model.startswith(SCHEME):
        return
    with answers():
        client = connect()
        found = find_version(model if isinstance(model, str) else f"{SCHEME}{name}/{model}")
        split, protocol = metrics.get("split", "?"), metrics.get("protocol", "original")
        digest = (metrics.get("data_store") or {}).get("digest", "")[:12]
        value = json.dumps({k: metrics[k] for k in CARRIED if k in metrics}, default=str)
        client.set_model_version_tag(found.name, found.version, f"metrics.{split}.{protocol}", value)
        if not found.run_id:
            return
        for key in ("oIoU", "mIoU", "expressions"):
            if isinstance(metrics.get(key), int | float):
                # a run may be evaluated on several stores and by several protocols: the number's name says which
                client.log_metric(found.run_id, f"{split}/{protocol}/{digest}/{key}", float(metrics[key]))
        if folder is not None:
            _upload(client, found.run_id, metrics, Path(folder), f"{split}.{protocol}.{digest}")


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


def noted(version: Version) -> Iterator[dict[str, Any]]:
    """The evaluations that were noted on the version."""
    for key, value in sorted(version.tags.items()):
        if key.startswith("metrics."):
            yield json.loads(value)


def scores_line(version: Version) -> str:
    """ "testA 61.20 (1,975 expressions, original, 0123456789ab), ...": oIoU in points, and what it is of."""
    return ", ".join(
        f"{m['split']} {100 * m['oIoU']:.2f} ({m.get('expressions')} expressions, {m.get('protocol')}, "
        f"{(m.get('data_store') or {}).get('digest', '')[:12]})"
        for m in noted(version)
        if m.get("oIoU") is not None
    )


def evaluation_lines(version: Version) -> Iterator[str]:
    """The noted evaluations, each with what its numbers are of."""
    for m in noted(version):
        store = m.get("data_store") or {}
        numbers = ", ".join(f"{k} {100 * m[k]:.2f}" for k in ("oIoU", "mIoU") if m.get(k) is not None)
        yield (
            f"{m['split']}: {numbers} ({m.get('expressions')} expressions, protocol {m.get('protocol')}, "
            f"data store {store.get('name', '')} {store.get('digest', '')[:12]})"
        )
