"""Candidate and champion on the same expressions, counted alike: evaluations are found, or run, and compared.

An evaluation is a folder that `mail-ris evaluate` wrote (`metrics.json`, `per_expression.jsonl`). It is known by the
digest of the model's files, not by a name: a model evaluated before it was registered need not be evaluated again. It
counts only if it read the masks of the proposer that the model was trained with, and carries: with better ones, or
without any, it would be another system's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mail import lineage
from mail.data.store import DataStore
from mail.errors import UserError
from mail.metrics import get_protocol, paired_bootstrap
from pipelines.evaluating.config import EvaluationConfig
from pipelines.evaluating.evaluation import evaluate
from pipelines.evaluating.parent import ParentModel, trained_on
from pipelines.registry.comparison import Comparison, Evaluation, NotEvaluated, read_evaluations
from pipelines.registry.evaluation_notes import logged_evaluations
from pipelines.registry.models import SCHEME, Version, download, find_version
from pipelines.terminal import say


@dataclass(kw_only=True)
class EvaluationComparer:
    """The `Comparer` of promotions: finds or makes what two versions are compared by.

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
        return None if self.data is None else DataStore(self.data).digest

    def compare(self, candidate: Version, champion: Version | None, split: str) -> Comparison:
        """As `Comparer.compare`; NotEvaluated where an evaluation is missing and `data` is not given."""
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

    def against_parent(
        self, candidate: Version, splits: tuple[str, ...], on: Literal["own", "parent's"]
    ) -> list[Comparison] | None:
        """As `Comparer.against_parent`."""
        folder = download(candidate)
        origin = lineage.read(folder)
        parent = ParentModel.of(folder, origin)
        if parent is None:
            return None
        data, masks, chosen = trained_on(origin if on == "own" else parent.lineage, splits)
        there = replace(self, data=data, masks=masks)
        found = []
        for split in chosen:
            ours, theirs = there._of(candidate, split)[0], there._of_parent(candidate, parent, split)
            pair = [there._checked(e, split) for e in (ours, theirs)]
            protocol = get_protocol(self.protocol)
            differences = paired_bootstrap(pair[0].counts.counts, pair[1].counts.counts, protocol=protocol)
            found.append(Comparison(split, self.protocol, pair[0], pair[1], differences))
        return found

    def missing(self, version: Version, split: str) -> bool:
        """Whether an evaluation would have to be run."""
        return not self._found(version, split)

    def _of(self, version: Version, split: str) -> list[Evaluation]:
        if found := self._found(version, split):
            return found
        if self.data is None:
            origin = lineage.read(download(version))
            known = [(origin.get(part) or {}).get("uri") for part in ("data_store", "mask_table")]
            raise NotEvaluated(
                f"no evaluation of {version.name} version {version.version} on {split} by protocol {self.protocol} was "
                "found: name its folder with --evaluations, or what to evaluate on with --data and --masks (it was "
                f"trained with {' and '.join(filter(None, known)) or 'unknown data'})"
            )
        return [self._evaluate(version, split)]

    def _found(self, version: Version, split: str) -> list[Evaluation]:
        """Evaluations of this very model, the newest first."""
        local = download(version)
        model, proposer = lineage.model_digest(local), _proposer(lineage.read(local))
        wanted = (model, proposer, split, self.protocol, self.digest)

        def known(evaluation: Evaluation) -> tuple[str | None, ...]:
            figures, store = evaluation.figures, evaluation.store if self.digest else None
            digest = (figures.get("model") or {}).get("digest")
            return digest, _proposer(figures), figures["split"], figures["protocol"], store

        folders = [*self.evaluations, self._folder(version, split), *logged_evaluations(version)]
        found = [e for e in read_evaluations(folders) if known(e) == wanted]
        return sorted(found, key=lambda e: -(e.folder / "metrics.json").stat().st_mtime)

    def _of_parent(self, version: Version, parent: ParentModel, split: str) -> Evaluation:
        """The parent's evaluation, which may be no registered version, found or made beside its child's."""
        wanted = (lineage.model_digest(parent.folder), split, self.protocol, self.digest)
        proposers = {_proposer(each) for each in (parent.lineage, lineage.read(download(version)))}
        out = self._folder(version, f"parent-{split}")
        registered = parent.address.startswith(SCHEME)
        noted = logged_evaluations(find_version(parent.address)) if registered else []
        for found in read_evaluations([*self.evaluations, self.out, *noted]):
            figures = found.figures
            model = (figures.get("model") or {}).get("digest")
            same = (model, figures["split"], figures["protocol"], found.store) == wanted
            if same and _proposer(figures) in proposers:
                return found
        say(f"evaluating {parent.address}, which it goes on from, on {split}")
        evaluate(self._config(str(parent.folder), split, out))
        return next(iter(read_evaluations([out])))

    def _config(self, model: str, split: str, out: Path) -> EvaluationConfig:
        assert self.data is not None
        return EvaluationConfig(
            model=model,
            data=self.data,
            masks=self.masks,
            split=split,
            out=out,
            protocol=self.protocol,
            workers=self.workers,
            allow_leaky=self.allow_leaky,
            gallery=False,
        )

    def _evaluate(self, version: Version, split: str) -> Evaluation:
        out = self._folder(version, split)
        say(f"evaluating {version.name} version {version.version} on {split}")
        evaluate(self._config(f"{SCHEME}{version.name}/{version.version}", split, out))
        made = next(iter(read_evaluations([out])))
        wanted = _proposer(lineage.read(download(version)))
        if _proposer(made.figures) != wanted:
            raise UserError(f"{self.masks} has no masks of {wanted}, the proposer of version {version.version}")
        return made

    def _folder(self, version: Version, split: str) -> Path:
        name = f"{self.protocol}-{self.digest[:12]}" if self.digest else self.protocol
        return self.out / f"{version.name}-{version.version}" / f"{split}-{name}"

    def _checked(self, evaluation: Evaluation, split: str) -> Evaluation:
        """With the store at hand: each of its expressions once, and no other."""
        if self.data is not None:
            expected = DataStore(self.data).expressions([split], ["expr_id"])["expr_id"].to_pylist()
            evaluation.counts.check_coverage(expected)
        return evaluation


def _proposer(record: Mapping[str, Any]) -> str | None:
    """Whose masks were read, by a lineage or a metrics file; None for a network without instance masks."""
    return (record.get("mask_table") or {}).get("proposer_id")


def _names(evaluations: Iterable[Evaluation]) -> str:
    return ", ".join(sorted({f"{e.figures['data_store']['name']} {e.store[:12]}" for e in evaluations}))
