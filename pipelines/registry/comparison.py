"""What a promotion is decided by: evaluations on disk, and two of them side by side on the same expressions.

An evaluation is a folder that `mail-ris evaluate` wrote (`metrics.json`, `per_expression.jsonl`). Who finds or makes
the evaluations of a version is a `Comparer`; `pipelines.evaluating.comparer` is the one that there is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from mail import json_text
from mail.errors import UserError
from mail.metrics import Accumulator, Difference, read_per_expression
from pipelines.registry.models import Version

KEPT = ("expressions", "oIoU", "mIoU", "prec", "gIoU", "cIoU", "N-acc", "T-acc")


class NotEvaluated(UserError):
    """There is nothing to compare yet, and no data store was named to make it: no decision can be taken."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on disk; `figures` is its `metrics.json`."""

    folder: Path
    figures: dict[str, Any]

    @property
    def store(self) -> str:
        """The data store's digest."""
        return self.figures["data_store"]["digest"]

    @cached_property
    def counts(self) -> Accumulator:
        """Counts of every expression. Raises UserError if they are not those that the figures were made of."""
        found = read_per_expression(self.folder / "per_expression.jsonl")
        if len(found) != self.figures["expressions"] or found.protocol.name != self.figures["protocol"]:
            raise UserError(
                f"{self.folder}: metrics.json is of {self.figures['expressions']} expressions "
                f"({self.figures['protocol']}), per_expression.jsonl of {len(found)} ({found.protocol.name}): "
                "evaluate again"
            )
        return found

    def record(self) -> dict[str, Any]:
        """What a decision remembers of it."""
        masks = self.figures.get("mask_table") or {}
        where = {"evaluation": str(self.folder), "mask_table": masks.get("digest"), "leaky": self.figures.get("leaky")}
        return {k: self.figures[k] for k in KEPT if self.figures.get(k) is not None} | where


@dataclass(frozen=True)
class Comparison:
    """Candidate and champion on one split; without a champion the candidate's figures alone."""

    split: str
    protocol: str
    candidate: Evaluation
    champion: Evaluation | None
    differences: dict[str, Difference]

    @property
    def folders(self) -> tuple[Path, Path | None]:
        """The two evaluations that it is of."""
        return self.candidate.folder, None if self.champion is None else self.champion.folder

    def record(self) -> dict[str, Any]:
        found = {"data_store": self.candidate.figures["data_store"], "candidate": self.candidate.record()}
        if self.champion is not None:
            found["champion"] = self.champion.record()
            found["difference"] = {name: d._asdict() for name, d in self.differences.items()}
        return found


class Comparer(Protocol):
    """Finds, or makes, what two versions are compared by."""

    protocol: str

    def compare(self, candidate: Version, champion: Version | None, split: str) -> Comparison:
        """Both versions on a split; without a champion the candidate alone.

        Raises:
            NotEvaluated: an evaluation is missing and there is nothing to make it of.
            UserError: the evaluations are of different data stores or expressions, or cannot be made.
        """
        ...

    def against_parent(
        self, candidate: Version, splits: tuple[str, ...], on: Literal["own", "parent's"]
    ) -> list[Comparison] | None:
        """A version and the model that it goes on from, on what is held out of the data of one of them.

        Args:
            splits: that are wanted; if those data have none of them, all that are held out.

        Returns:
            None if it goes on from no other model.

        Raises:
            UserError: that model or the data are gone, or as of `compare`.
        """
        ...


def read_evaluations(folders: Iterable[Path]) -> Iterator[Evaluation]:
    """The evaluations in these folders and up to three levels below; what is something else is passed over."""
    seen = set()
    for folder in folders:
        for pattern in ("metrics.json", "*/metrics.json", "*/*/metrics.json", "*/*/*/metrics.json"):
            for path in sorted(Path(folder).glob(pattern)):
                if path.resolve() in seen or not path.with_name("per_expression.jsonl").exists():
                    continue
                seen.add(path.resolve())
                try:
                    figures = json_text.parse_object(path.read_bytes())
                    if {"data_store", "split", "protocol", "expressions"} <= figures.keys():
                        yield Evaluation(path.parent, figures)
                except ValueError:
                    continue
