"""Candidate and champion on the same expressions, counted alike: evaluations are found, or run, and compared.

An evaluation is a folder that `mail-ris evaluate` wrote (`metrics.json`, `per_expression.jsonl`). It is known by the
digest of the model's files, not by a name: a model evaluated before it was registered need not be evaluated again. It
counts only if it read the masks of the proposer that the model was trained with, and carries: with better ones, or
without any, it would be another system's.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mail import lineage
from mail.errors import UserError
from mail.metrics import Accumulator, Difference, get_protocol, paired_bootstrap, read_per_expression
from pipelines.registry import tracking
from pipelines.registry.evaluation_notes import logged_evaluations
from pipelines.stage import say

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

    def record(self) -> dict[str, Any]:
        found = {"data_store": self.candidate.figures["data_store"], "candidate": self.candidate.record()}
        if self.champion is not None:
            found["champion"] = self.champion.record()
            found["difference"] = {name: d.to_dict() for name, d in self.differences.items()}
        return found


@dataclass(kw_only=True)
class Comparer:
    """Finds or makes what two versions are compared by.

    Args:
        data: data store to evaluate on where no evaluation on it is found; None uses only what is found.
        masks: mask table for such evaluations.
        evaluations: folders with evaluations, at most three levels deep; those of a run's artifacts count too.
        out: where new evaluations go, and are found again.
    """

    protocol: str = "original"
    data: str | None = None
    masks: str | None = None
    evaluations: tuple[Path, ...] = ()
    out: Path = Path("runs/promotions")
    workers: int | None = None
    allow_leaky: bool = False

    def __post_init__(self) -> None:
        get_protocol(self.protocol)

    @cached_property
    def digest(self) -> str | None:
        """Of the data store that is to be compared on."""
        from mail.data.store import DataStore

        return None if self.data is None else DataStore(self.data).digest

    def compare(self, candidate: tracking.Version, champion: tracking.Version | None, split: str) -> Comparison:
        """Both versions on a split.

        Raises:
            NotEvaluated: an evaluation is missing and `data` is not given.
            UserError: the evaluations are of different data stores or expressions, or cannot be made.
        """
        ours = self._of(candidate, split)
        if champion is None:
            return Comparison(split, self.protocol, self._checked(ours[0], split), None, {})
        theirs = self._of(champion, split)
        pairs = ((a, b) for a in ours for b in theirs if a.store == b.store)
        pair = next(pairs, None)
        if pair is None:
            raise UserError(
                f"the evaluations on {split} are of different data stores: version {candidate.version} on "
                f"{_names(ours)}, the champion, version {champion.version}, on {_names(theirs)}"
            )
        a, b = (self._checked(e, split) for e in pair)
        found = paired_bootstrap(a.counts.counts, b.counts.counts, protocol=get_protocol(self.protocol))
        return Comparison(split, self.protocol, a, b, found)

    def missing(self, version: tracking.Version, split: str) -> bool:
        """Whether an evaluation would have to be run."""
        return not self._found(version, split)

    def _of(self, version: tracking.Version, split: str) -> list[Evaluation]:
        if found := self._found(version, split):
            return found
        if self.data is None:
            origin = lineage.read(tracking.download(version))
            known = [(origin.get(part) or {}).get("uri") for part in ("data_store", "mask_table")]
            raise NotEvaluated(
                f"no evaluation of {version.name} version {version.version} on {split} by protocol {self.protocol} was "
                "found: name its folder with --evaluations, or what to evaluate on with --data and --masks (it was "
                f"trained with {' and '.join(filter(None, known)) or 'unknown data'})"
            )
        return [self._evaluate(version, split)]

    def _found(self, version: tracking.Version, split: str) -> list[Evaluation]:
        """Evaluations of this very model, the newest first."""
        from mail.evaluation import model_digest

        local = tracking.download(version)
        model, proposer = model_digest(local), _proposer(lineage.read(local))
        found = []
        folders = [*self.evaluations, self._folder(version, split)]
        for evaluation in read_evaluations([*folders, *logged_evaluations(version)]):
            figures = evaluation.figures
            wanted = {"model": model, "proposer": proposer, "split": split, "protocol": self.protocol}
            wanted |= {"store": self.digest}
            known = {
                "model": (figures.get("model") or {}).get("digest"),
                "proposer": _proposer(figures),
                "split": figures["split"],
                "protocol": figures["protocol"],
                "store": evaluation.store if self.digest else None,
            }
            if wanted == known:
                found.append(evaluation)
        return sorted(found, key=lambda e: -(e.folder / "metrics.json").stat().st_mtime)

    def _evaluate(self, version: tracking.Version, split: str) -> Evaluation:
        from pipelines.stages.evaluate import Evaluate

        assert self.data is not None
        out = self._folder(version, split)
        say(f"evaluating {version.name} version {version.version} on {split}")
        Evaluate(
            model=f"{tracking.SCHEME}{version.name}/{version.version}",
            data=self.data,
            masks=self.masks,
            split=split,
            out=out,
            protocol=self.protocol,
            workers=self.workers,
            allow_leaky=self.allow_leaky,
            gallery=False,
        ).run()
        made = next(iter(read_evaluations([out])))
        wanted = _proposer(lineage.read(tracking.download(version)))
        if _proposer(made.figures) != wanted:
            raise UserError(f"{self.masks} has no masks of {wanted}, the proposer of version {version.version}")
        return made

    def _folder(self, version: tracking.Version, split: str) -> Path:
        name = f"{self.protocol}-{self.digest[:12]}" if self.digest else self.protocol
        return self.out / f"{version.name}-{version.version}" / f"{split}-{name}"

    def _checked(self, evaluation: Evaluation, split: str) -> Evaluation:
        """With the store at hand: each of its expressions once, and no other."""
        if self.data is not None:
            from mail.data.store import DataStore

            expected = DataStore(self.data).expressions([split], ["expr_id"])["expr_id"].to_pylist()
            evaluation.counts.check_coverage(expected)
        return evaluation


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
                    figures = json.loads(path.read_text())
                    if {"data_store", "split", "protocol", "expressions"} <= figures.keys():
                        yield Evaluation(path.parent, figures)
                except (ValueError, AttributeError):
                    continue


def _proposer(record: dict[str, Any]) -> str | None:
    """Whose masks were read, by a lineage or a metrics file; None for a network without instance masks."""
    return (record.get("mask_table") or {}).get("proposer_id")


def _names(evaluations: Iterable[Evaluation]) -> str:
    return ", ".join(sorted({f"{e.figures['data_store']['name']} {e.store[:12]}" for e in evaluations}))
