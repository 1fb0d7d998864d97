"""`evaluate --compare parent`: a fine-tuned model and the one that it goes on from, on the new data and on the old.

OUT/...                     the model on the new data, side by side with its parent
OUT/parent/...              the parent on the new data
OUT/forgetting/SPLIT/...    both on what the parent was trained on: `child`, `parent`
"""

from dataclasses import replace
from typing import Any

from mail import lineage
from mail.data.store import DataStore
from mail.errors import UserError
from mail.metrics import Difference, MetricsReport, get_protocol, paired_bootstrap
from mail.model.folder import check_model_folder
from pipelines.evaluating.config import EvaluationConfig
from pipelines.evaluating.evaluation import evaluate
from pipelines.evaluating.parent import ParentModel, trained_on
from pipelines.evaluating.tables import Row, print_rows
from pipelines.registry.comparison import Evaluation, read_evaluations
from pipelines.registry.models import resolve_model
from pipelines.terminal import say

WORD = "parent"


def evaluate_against_parent(config: EvaluationConfig) -> MetricsReport:
    """Evaluates a model, and its parent where that is not done yet, on the data and on the parent's own.

    Raises:
        UserError: the model goes on from no other one, that one is gone, or as of `evaluate`.
    """
    child = check_model_folder(resolve_model(config.model))
    origin = lineage.read(child)
    parent = ParentModel.of(child, origin)
    if parent is None:
        raise UserError(f"{config.model} goes on from no other model: name another evaluation's folder with --compare")
    beside = replace(config, model=str(parent.folder), out=config.out / "parent", compare=None)
    theirs = evaluated(beside)
    forgotten = forgetting(config, parent)
    report = evaluate(replace(config, compare=theirs.folder), {"forgetting": [row.record() for row in forgotten]})
    ours = next(iter(read_evaluations([config.out])))
    print_rows([compared("new data", ours, theirs), *forgotten])
    return report


def forgetting(config: EvaluationConfig, parent: ParentModel) -> list[Row]:
    """A row for each split of the parent's data: model and parent on it; none where the data are gone, which is said.

    Args:
        config: of the evaluation on the new data; new evaluations go below its folder.
    """
    try:
        data, masks, splits = trained_on(parent.lineage, (config.split,))
    except UserError as error:
        say(f"what is forgotten cannot be told: {error}")
        return []
    rows = []
    for split in splits:
        out = config.out / "forgetting" / split
        old = replace(config, data=data, masks=masks, proposer_id=None, split=split, compare=None, gallery=False)
        sides = [(config.model, out / "child"), (str(parent.folder), out / "parent")]
        ours, theirs = (evaluated(replace(old, model=model, out=folder)) for model, folder in sides)
        rows.append(compared("the parent's data", ours, theirs))
    return rows


def evaluated(config: EvaluationConfig) -> Evaluation:
    """The evaluation in a folder, made where there is none of this very model, data and protocol yet."""
    digest, store = lineage.model_digest(check_model_folder(resolve_model(config.model))), DataStore(config.data).digest
    for found in read_evaluations([config.out]):
        figures = found.figures
        same = (figures.get("model") or {}).get("digest") == digest and figures["split"] == config.split
        if found.folder == config.out and same and (found.store, figures["protocol"]) == (store, config.protocol):
            return found
    evaluate(config)
    return next(iter(read_evaluations([config.out])))


def compared(what: str, ours: Evaluation, theirs: Evaluation) -> Row:
    """Two evaluations of the same split, side by side."""
    protocol = get_protocol(ours.figures["protocol"])
    differences: dict[str, Difference] = paired_bootstrap(ours.counts.counts, theirs.counts.counts, protocol=protocol)
    store: dict[str, Any] = ours.figures["data_store"]
    return Row(what, store["name"], ours.figures["split"], differences)
