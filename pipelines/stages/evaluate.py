"""`mail-ris evaluate`: a model on a split, every expression exactly once, at the original resolution.

    mail-ris evaluate --model MODEL --data STORE --masks TABLE --split SPLIT --out DIR

    DIR/metrics.json, DIR/predictions.jsonl, DIR/per_expression.jsonl, DIR/gallery.html

The same command continues where an interrupted one stopped (`pipelines.evaluating.evaluation`).
"""

from dataclasses import dataclass, replace
from typing import Any

from pipelines.evaluating.config import EvaluationConfig
from pipelines.stage import Stage


@dataclass(kw_only=True)
class Evaluate(EvaluationConfig, Stage):
    """Evaluate a model on a split: metrics.json, predictions.jsonl and gallery.html in a folder."""

    def plan(self) -> dict[str, Any]:
        from pipelines.evaluating.against_parent import WORD
        from pipelines.evaluating.evaluation import Evaluation

        alone = replace(self, compare=None) if self.compare == WORD else self
        return Evaluation.prepare(alone).describe()

    def execute(self) -> None:
        from pipelines.evaluating.finished import tell

        if self.dry_run or not tell(self):
            super().execute()

    def run(self) -> Any:
        from pipelines.evaluating.against_parent import WORD, evaluate_against_parent
        from pipelines.evaluating.evaluation import evaluate

        return evaluate_against_parent(self) if self.compare == WORD else evaluate(self)
