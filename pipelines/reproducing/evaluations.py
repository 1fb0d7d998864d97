"""The evaluations of one network: every split of its rows, counted by every protocol of the table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mail.data import files
from mail.data.store import DataStore
from mail.metrics import MetricsReport, get_protocol, read_predictions, score_predictions
from pipelines.evaluating.config import EvaluationConfig
from pipelines.reproducing.table import PROTOCOLS, Place, file_of


def evaluate_all(place: Place, splits: Sequence[str], model: str, config: Mapping[str, Any]) -> None:
    """Evaluates what is not evaluated yet.

    Args:
        model: address of MODEL. config: of `EvaluationConfig`, what is the same for all splits.
    """
    from pipelines.evaluating.evaluation import evaluate

    for split in splits:
        if place.figures(split, PROTOCOLS[-1]) is not None:  # which is written last
            continue
        with files.local_folder(model) as local, files.filled_folder(place.evaluation(split)) as out:
            if not (out / file_of(PROTOCOLS[0])).exists():
                evaluate(EvaluationConfig(model=str(local), split=split, out=out, **config))
            # the same masks by the other protocols, whose threshold is the same
            store, found = DataStore(config["data"]), read_predictions(out / "predictions.jsonl")
            figures = json.loads((out / file_of(PROTOCOLS[0])).read_text())
            extra = {key: figures[key] for key in ("model", "leaky", "code_version")}
            for name in PROTOCOLS[1:]:
                counted, _ = score_predictions(
                    store.expressions([split]), found, split=split, protocol=get_protocol(name)
                )
                MetricsReport.build(counted, store=store, split=split, extra=extra).write_json(out / file_of(name))
