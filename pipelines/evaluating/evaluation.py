"""A model on a split: every expression exactly once, whoever shares the work, and the files that tell of it.

    images of the split in fixed batches -> tasks read file contents and masks -> a pool of actors predicts
    -> the driver gathers answers image by image, checks that none is missing or doubled, and counts

What the actors have answered is kept in `OUT/.answers.jsonl`, so that the same evaluation continues where an
interrupted one stopped; it is used only if everything that determines the answers is unchanged.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail import lineage
from mail.data import files
from mail.data.filling import naming
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.store import DataStore
from mail.errors import UserError
from mail.evaluation import ImageAnswer, SplitInput, SplitPlan, answers, check_masks, choices
from mail.inference import Predictor
from mail.leakage import Verdict, check_evaluation
from mail.metrics import (
    Accumulator,
    MetricsReport,
    get_protocol,
    paired_bootstrap,
    slice_expressions,
    write_predictions,
)
from mail.metrics.protocols import Protocol
from mail.metrics.scoring import accumulate
from mail.model import TextCoverage
from mail.model.folder import check_model_folder, check_weights
from mail.report.gallery import thumbnail_side
from pipelines.claiming.claim import Claim
from pipelines.ending import EndRequested
from pipelines.evaluating.answers import ANSWERS, begin, read_answers
from pipelines.evaluating.config import EvaluationConfig
from pipelines.evaluating.finished import note
from pipelines.evaluating.gallery import write_evaluation_gallery
from pipelines.evaluating.inputs import find_snapshot, read_other
from pipelines.evaluating.tables import of_what, print_differences, print_report, summary
from pipelines.registry.evaluation_notes import log_evaluation
from pipelines.registry.models import SCHEME, resolve_model
from pipelines.terminal import Advance, done, say


def evaluate(config: EvaluationConfig, facts: Mapping[str, Any] | None = None) -> MetricsReport:
    """Evaluates, or goes on with what was interrupted, and writes `metrics.json`, `predictions.jsonl`, the gallery.

    Args:
        facts: what else belongs in `metrics.json`.

    Raises:
        UserError: an option is wrong, masks are missing, the model or its masks leak and that is not allowed, or
            another process has the folder.
    """
    with Claim(config.out, f"the evaluation in {config.out}", "another --out") as claim:
        evaluation = Evaluation.prepare(config)
        evaluation.predict(may=claim.alive)
        return evaluation.write(claim.check, facts or {})


@dataclass
class Evaluation:
    """An evaluation with everything looked up and checked.

    Attributes:
        folder: of the model. model: its address and digest, for the record.
        coverage: what of the split's texts reaches the network. verdict: what of the split was seen in training.
        several: whether the network chooses each proposal by itself.
        answers: what is known already, by image id. other: what is compared with.
    """

    config: EvaluationConfig
    folder: Path
    model: dict[str, Any]
    store: DataStore
    plan: SplitPlan
    snapshot: MaskSnapshot | None
    protocol: Protocol
    coverage: TextCoverage
    verdict: Verdict
    several: bool
    answers: dict[str, ImageAnswer]
    other: Accumulator | None = None

    @classmethod
    def prepare(cls, config: EvaluationConfig) -> "Evaluation":
        """Looks everything up. Raises UserError where something is wrong with it."""
        protocol = get_protocol(config.protocol)
        if config.batch_images < 1 or (config.workers is not None and config.workers < 0):
            raise UserError("--batch-images must be at least 1 and --workers at least 0")
        if config.no_proposals and config.masks:
            raise UserError("--masks and --no-proposals exclude each other: leave one out")
        files.check_writable(config.out)
        other = None if config.compare is None else read_other(config.compare, protocol)
        folder = check_model_folder(resolve_model(config.model))
        processor = check_weights(folder)
        origin = lineage.read(folder) if (folder / lineage.FILE).exists() else None
        store = DataStore(config.data)
        plan = SplitPlan.read(store, store.check_split(config.split), config.batch_images)
        snapshot = find_snapshot(config, folder, origin)
        verdict = check_evaluation(origin, store, config.split, snapshot, config.allow_leaky, config.model, folder)
        if snapshot is not None:
            check_masks(store, plan.images, snapshot)
        for line in verdict.remarks:
            say(line)
        model: dict[str, Any] = {"address": config.model, "digest": lineage.model_digest(folder)}
        model |= {key: (origin or {}).get(key) for key in ("run_id", "code_version", "leaky")}
        coverage = processor.coverage(plan.expressions["text"].to_pylist())
        several = processor.choice == "many"
        found = cls(config, folder, model, store, plan, snapshot, protocol, coverage, verdict, several, {}, other)
        found.answers = read_answers(found._record, found.fingerprint)
        return found

    def describe(self) -> dict[str, Any]:
        """What is to be done, ready for JSON."""
        return {
            "expressions": len(self.plan.expressions),
            "images": len(self.plan.images),
            "batches": len(self.plan),
            "answered_already": len(self.answers),
            "model": self.model,
            "data_store": {"name": self.store.name, "digest": self.store.digest},
            "mask_table": self.snapshot.lineage if self.snapshot is not None else None,
            "protocol": self.protocol.description,
            "leaky": self.verdict.leaky,
        }

    def predict(self, batches: Sequence[int] | None = None, may: Callable[[], None] = lambda: None) -> None:
        """Answers what is not answered yet, of some batches or all; an answer is on the disk before the next comes.

        Args:
            may: is asked before each is written; raises if the folder is another process's by now.
        """
        self.config.out.mkdir(parents=True, exist_ok=True)
        total = len(self.plan.images)
        if self.answers:
            say(f"continuing: {len(self.answers)} of {total} images are answered already")
        masks = f"masks of {self.snapshot.proposer_id}" if self.snapshot is not None else "no instance masks"
        say(f"evaluating {len(self.plan.expressions)} expressions on {total} images, {masks}")
        chosen = range(len(self.plan)) if batches is None else batches
        pending = [n for n in chosen if any(i.image_id not in self.answers for i in self.plan.batch(n))]
        if not pending:
            return
        with (
            naming(self._record),
            open(self._record, "a" if self.answers else "w") as record,
            Advance("images evaluated", total, len(self.answers)) as advance,
        ):
            if not self.answers:
                record.write(begin(self.fingerprint))
            try:
                for answer in self._predict(pending):
                    if answer.image_id in self.answers:
                        continue  # of a batch that an interrupted run had answered in part
                    may()
                    self.answers[answer.image_id] = answer
                    record.write(answer.to_line() + "\n")
                    record.flush()
                    advance(len(self.answers))
            except EndRequested as end:
                end.kept = f"the answers for {len(self.answers)} of {total} images are kept"
                raise

    def write(self, may: Callable[[], None] = lambda: None, facts: Mapping[str, Any] | None = None) -> MetricsReport:
        """Counts the answers, writes the files and prints the figures.

        Args:
            may: is asked before those of an earlier evaluation are replaced; raises if they must not be.
            facts: as of `evaluate`.
        """
        config, out = self.config, self.config.out
        predictions = {e: p for answer in self.answers.values() for e, p in answer.predictions.items()}
        wanted = self.plan.expressions["expr_id"].to_pylist()
        answered = sum(len(a.predictions) for a in self.answers.values())
        if predictions.keys() != set(wanted) or answered != len(wanted):  # never: a bug of ours, and no number
            raise RuntimeError(
                f"{answered} answers, {len(predictions)} of them different, to {len(wanted)} expressions"
            )
        accumulator = accumulate(self.plan.expressions, predictions, self.protocol)
        context = self.store.expressions(columns=["image_id", "ann_ids", "category"])
        slices = slice_expressions(self.plan.expressions, context)
        chosen = None
        if self.snapshot is not None:
            chosen = choices(self.plan.expressions, self.snapshot, predictions, accumulator, self.several)
        extra, differences = self._facts() | dict(facts or {}), None
        if self.other is not None:
            differences = paired_bootstrap(accumulator.counts, self.other.counts, protocol=self.protocol)
            extra["compared"] = {"with": str(config.compare), **{k: d._asdict() for k, d in differences.items()}}
        report = MetricsReport.build(
            accumulator, store=self.store, split=config.split, slices=slices, choices=chosen, extra=extra
        )
        with files.written_together(out, "metrics.json", may) as new:
            write_predictions(new / "predictions.jsonl", predictions)
            report.write_per_expression(new / "per_expression.jsonl")
            if config.gallery:
                write_evaluation_gallery(
                    new / "gallery.html",
                    folder=out,
                    model=config.model,
                    plan=self.plan,
                    snapshot=self.snapshot,
                    answers=self.answers,
                    report=report,
                    slices=slices,
                    compare=config.compare,
                )
            report.write_json(new / "metrics.json")
            names = "metrics.json, predictions.jsonl" + (", gallery.html" if config.gallery else "")
            told = f"{summary(report)}{', LEAKY' if self.verdict.leaky else ''} -> {out}: {names}"
            note(new, config, self.folder, self.snapshot.proposer_id if self.snapshot is not None else None, told)
        self._record.unlink(missing_ok=True)
        self._note(report)
        print_report(report)
        if differences is not None:
            print_differences(differences, str(config.compare), of_what(report))
        for text in self._warnings():
            say(text)
        done(told)
        return report

    @property
    def thumbnail_side(self) -> int | None:
        """Longest side of the gallery's small pictures; None without a gallery."""
        return thumbnail_side(len(self.plan.images)) if self.config.gallery else None

    @property
    def fingerprint(self) -> str:
        """Of everything that determines the answers."""
        parts = {
            "model": self.model["digest"],
            "store": self.store.digest,
            "split": self.config.split,
            "masks": [self.snapshot.digest, self.snapshot.proposer_id] if self.snapshot is not None else None,
            "threshold": self.protocol.threshold,
            "batch_images": self.config.batch_images,
            "thumbnail": self.thumbnail_side,
            "images": [i.image_id for i in self.plan.images],
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _record(self) -> Path:
        return self.config.out / ANSWERS

    def _predict(self, pending: list[int]) -> Iterator[ImageAnswer]:
        source = SplitInput.of(self.store, self.plan, self.snapshot)
        if self.config.workers == 0:
            predictor = Predictor.from_pretrained(self.folder)
            return answers(predictor, source, pending, self.protocol.threshold, self.thumbnail_side)
        from pipelines.evaluating.workers import predict

        threshold, side = self.protocol.threshold, self.thumbnail_side
        return predict(source, self.folder, pending, self.config.workers, threshold, side)

    def _facts(self) -> dict[str, Any]:
        """What belongs in metrics.json beside the figures."""
        without = {a.image_id: a.masks_status for a in self.answers.values() if a.masks_status}
        return {
            "model": self.model,
            "code_version": lineage.code_version(),
            "mask_table": self.snapshot.lineage if self.snapshot is not None else None,
            "leaky": self.verdict.leaky,
            "leaks": [asdict(overlap) for overlap in self.verdict.overlaps],
            "texts": self.coverage.to_dict(),
            "images": len(self.plan.images),
            "errors": dict(sorted((a.image_id, a.error) for a in self.answers.values() if a.error)),
            "images_without_masks": dict(sorted(without.items())),
        }

    def _warnings(self) -> Iterator[str]:
        if errors := sorted(a.image_id for a in self.answers.values() if a.error):
            yield (
                f"{len(errors)} images cannot be decoded; their expressions count as predicted empty: "
                f"{', '.join(errors[:3])} (all are in metrics.json)"
            )
        if not self.coverage.complete:
            yield self.coverage.describe()
        if self.verdict.leaky:
            yield "LEAKY: images of this split were seen in training, or nobody knows; do not compare these numbers"

    def _note(self, report: MetricsReport) -> None:
        """Notes the figures on a registered version; a server that is away costs the note, not the evaluation."""
        if self.config.model.startswith(SCHEME):
            try:
                log_evaluation(self.config.model, report.to_dict(), folder=self.config.out)
            except UserError as error:
                say(f"the figures are not noted on the version: {error}")
