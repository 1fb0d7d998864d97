"""`mail-ris evaluate`: a model on a split, shared by Ray Data actors, every expression exactly once.

    images of the split in fixed batches -> tasks read file contents and masks -> a pool of actors predicts
    -> the driver gathers answers image by image, checks that none is missing or doubled, and counts

What the actors have answered is kept in `OUT/.answers.jsonl`, so that the same command continues where an interrupted
one stopped; it is used only if everything that determines the answers is unchanged.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mail.errors import UserError
from pipelines.stage import Stage, done, say

ANSWERS = ".answers.jsonl"
READER_CPUS = 0.5


@dataclass(kw_only=True)
class Evaluate(Stage):
    """Evaluate a model on a split: metrics.json, predictions.jsonl and gallery.html in a folder."""

    model: str
    """MODEL: a folder, a checkpoint, or a registry address such as models:/mail-ris@champion."""

    data: str
    """Data store (local path or s3://)."""

    split: str
    """Split to evaluate, always as a whole: val, testA, ..."""

    out: Path
    """Folder for the results."""

    masks: str | None = None
    """Mask table with the instance masks of the split's images."""

    no_proposals: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Predict without instance masks, whatever the model was trained with."""

    proposer_id: str | None = None
    """Proposer whose masks to read, where the table holds several (default: the one the model was trained with)."""

    protocol: str = "original"
    """How pixels are counted: original, or as published code does it: lavt, cris, rela."""

    workers: int | None = None
    """Actors that predict (default: one a GPU, else one for two CPUs). The numbers do not depend on it. 0: predict in
    this process, without Ray, which is quickest for some hundred expressions."""

    batch_images: int = 8
    """Images, each with all of its sentences, that are predicted together."""

    compare: Path | None = None
    """Folder of another evaluation of this split: side by side in the gallery, with a paired bootstrap."""

    allow_leaky: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Evaluate although the proposer or the model saw images of the split; the results are labelled leaky."""

    gallery: bool = True
    """Write gallery.html."""

    def __post_init__(self) -> None:
        self.out = Path(self.out)  # callers in Python may give text
        self.compare = None if self.compare is None else Path(self.compare)

    def plan(self) -> dict[str, Any]:
        job = _Job.prepare(self)
        return {
            "expressions": len(job.plan.expressions),
            "images": len(job.plan.images),
            "batches": len(job.plan),
            "answered_already": len(job.read_answers()),
            "model": job.model,
            "data_store": {"name": job.store.name, "digest": job.store.digest},
            "mask_table": job.snapshot.lineage if job.snapshot is not None else None,
            "protocol": job.protocol.description,
            "leaky": job.leaky,
        }

    def run(self) -> Any:
        job = _Job.prepare(self)
        self.out.mkdir(parents=True, exist_ok=True)
        answers = job.read_answers()
        if answers:
            say(f"continuing: {len(answers)} of {len(job.plan.images)} images are answered already")
        masks = f"masks of {job.snapshot.proposer_id}" if job.snapshot is not None else "no instance masks"
        say(f"evaluating {len(job.plan.expressions)} expressions on {len(job.plan.images)} images, {masks}")
        pending = [n for n in range(len(job.plan)) if any(i.image_id not in answers for i in job.plan.batch(n))]
        if pending:
            self._predict(job, pending, answers)
        return self._write(job, answers)

    def _predict(self, job: "_Job", pending: list[int], answers: dict[str, Any]) -> None:
        predict = _predict_here if self.workers == 0 else _predict_on_ray
        total, said = len(job.plan.images), 0
        with open(job.record, "a" if answers else "w") as record:
            if not answers:
                record.write(json.dumps({"fingerprint": job.fingerprint}) + "\n")
            for answer in predict(job, pending, self.workers):
                if answer.image_id in answers:
                    continue  # of a batch that an interrupted run had answered in part
                answers[answer.image_id] = answer
                record.write(answer.to_line() + "\n")
                record.flush()
                if (tenths := 10 * len(answers) // total) > said:
                    said = tenths
                    say(f"{len(answers)} of {total} images")

    def _write(self, job: "_Job", answers: dict[str, Any]) -> Any:
        from mail.metrics import MetricsReport, slice_expressions, write_predictions
        from mail.metrics.scoring import accumulate
        from pipelines.metrics_table import of_what, print_differences, print_report, summary

        predictions = {e: p for answer in answers.values() for e, p in answer.predictions.items()}
        wanted = job.plan.expressions["expr_id"].to_pylist()
        answered = sum(len(a.predictions) for a in answers.values())
        if predictions.keys() != set(wanted) or answered != len(wanted):  # never: a bug of ours, and no number
            raise RuntimeError(
                f"{answered} answers, {len(predictions)} of them different, to {len(wanted)} expressions"
            )
        accumulator = accumulate(job.plan.expressions, predictions, job.protocol)
        context = job.store.expressions(columns=["image_id", "ann_ids", "category"])
        slices = slice_expressions(job.plan.expressions, context)
        extra, differences = job.facts(answers), None
        if self.compare is not None:
            differences = job.compare(accumulator, self.compare)
            extra["compared"] = {"with": str(self.compare), **{k: d.to_dict() for k, d in differences.items()}}
        report = MetricsReport.build(accumulator, store=job.store, split=self.split, slices=slices, extra=extra)
        write_predictions(self.out / "predictions.jsonl", predictions)
        report.write_per_expression(self.out / "per_expression.jsonl")
        if self.gallery:
            from pipelines.evaluation_gallery import write_evaluation_gallery

            write_evaluation_gallery(self.out / "gallery.html", job, report, answers, slices, self.compare)
        report.write_json(self.out / "metrics.json")
        job.record.unlink(missing_ok=True)
        self._note(report)
        print_report(report)
        if differences is not None:
            print_differences(differences, str(self.compare), of_what(report))
        for text in job.warnings(answers):
            say(text)
        names = "metrics.json, predictions.jsonl" + (", gallery.html" if self.gallery else "")
        done(f"{summary(report)}{', LEAKY' if job.leaky else ''} -> {self.out}: {names}")
        return report

    def _note(self, report: Any) -> None:
        """Notes the figures on a registered version; a server that is away costs the note, not the evaluation."""
        if self.model.startswith("models:/"):
            from pipelines.evaluation_notes import log_evaluation

            try:
                log_evaluation(self.model, report.to_dict(), folder=self.out)
            except UserError as error:
                say(f"the figures are not noted on the version: {error}")


@dataclass
class _Job:
    """An evaluation with everything looked up and checked."""

    stage: Evaluate
    folder: Path
    model: dict[str, Any]
    store: Any
    plan: Any
    snapshot: Any
    protocol: Any
    leaky: bool
    thumbnail_side: int

    @classmethod
    def prepare(cls, stage: Evaluate) -> "_Job":
        from mail.data.store import DataStore
        from mail.evaluation import SplitPlan, check_masks, model_digest
        from mail.inference import check_model_folder
        from mail.metrics import get_protocol
        from mail.report.gallery import thumbnail_side
        from pipelines.tracking import resolve_model

        protocol = get_protocol(stage.protocol)
        if stage.batch_images < 1 or (stage.workers is not None and stage.workers < 0):
            raise UserError("--batch-images must be at least 1 and --workers at least 0")
        if str(stage.out).startswith("s3:"):
            raise UserError("--out must be a local folder: answers are appended to a file in it while they come in")
        if stage.no_proposals and stage.masks:
            raise UserError("--masks and --no-proposals exclude each other: leave one out")
        folder = check_model_folder(resolve_model(stage.model))
        lineage = _lineage(folder)
        store = DataStore(_absolute(stage.data))
        plan = SplitPlan.read(store, store.check_split(stage.split), stage.batch_images)
        snapshot = cls._snapshot(stage, folder, lineage)
        if snapshot is not None:
            check_masks(store, plan.images, snapshot)
        leaky = _check_leakage(stage, store, snapshot, lineage)
        model: dict[str, Any] = {"address": stage.model, "digest": model_digest(folder)}
        model |= {key: (lineage or {}).get(key) for key in ("run_id", "code_version", "leaky")}
        side = thumbnail_side(len(plan.images))
        return cls(stage, folder, model, store, plan, snapshot, protocol, leaky, side)

    @staticmethod
    def _snapshot(stage: Evaluate, folder: Path, lineage: dict[str, Any] | None) -> Any:
        from mail.data.mask_table import MaskTable
        from mail.model import MailConfig

        if stage.no_proposals or not MailConfig.from_pretrained(folder).uses_instances:
            if stage.masks and not stage.no_proposals:
                say(f"{folder} is a network without instance masks: {stage.masks} is not read")
            return None
        if stage.masks is None:
            raise UserError("this model reads instance masks: name the mask table with --masks, or say --no-proposals")
        trained_with = ((lineage or {}).get("mask_table") or {}).get("proposer_id")
        table = MaskTable(_absolute(stage.masks))
        proposer_id = stage.proposer_id
        if proposer_id is None and trained_with is not None:
            proposer_id = trained_with if trained_with in table.head().proposer_ids else None
        snapshot = table.snapshot(proposer_id)
        if trained_with is not None and snapshot.proposer_id != trained_with:
            say(f"the model was trained with masks of {trained_with}, these are of {snapshot.proposer_id}")
        return snapshot

    @property
    def side(self) -> int | None:
        """Longest side of the gallery's small pictures; None without a gallery."""
        return self.thumbnail_side if self.stage.gallery else None

    @property
    def record(self) -> Path:
        return self.stage.out / ANSWERS

    @property
    def fingerprint(self) -> str:
        """Of everything that determines the answers."""
        images = [i.image_id for i in self.plan.images]
        parts = {
            "model": self.model["digest"],
            "store": self.store.digest,
            "split": self.stage.split,
            "masks": [self.snapshot.digest, self.snapshot.proposer_id] if self.snapshot is not None else None,
            "threshold": self.protocol.threshold,
            "batch_images": self.stage.batch_images,
            "thumbnail": self.side,
            "images": images,
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read_answers(self) -> dict[str, Any]:
        """Answers of an interrupted run of this very evaluation, by image id; a line cut short is left out."""
        from mail.evaluation import ImageAnswer

        if not self.record.exists():
            return {}
        lines = self.record.read_text().split("\n")
        if json.loads(lines[0] or "{}") != {"fingerprint": self.fingerprint}:
            return {}
        whole = [line for line in lines[1:-1] if line]
        if lines[-1]:  # the writer was killed in the middle of a line
            self.record.write_text("\n".join([lines[0], *whole]) + "\n")
        return {a.image_id: a for a in map(ImageAnswer.from_line, whole)}

    def facts(self, answers: dict[str, Any]) -> dict[str, Any]:
        """What belongs in metrics.json beside the figures."""
        without = {a.image_id: a.masks_status for a in answers.values() if a.masks_status}
        from mail.lineage import code_version

        return {
            "model": self.model,
            "code_version": code_version(),
            "mask_table": self.snapshot.lineage if self.snapshot is not None else None,
            "leaky": self.leaky,
            "images": len(self.plan.images),
            "errors": dict(sorted((a.image_id, a.error) for a in answers.values() if a.error)),
            "images_without_masks": dict(sorted(without.items())),
        }

    def warnings(self, answers: dict[str, Any]) -> Iterator[str]:
        if errors := sorted(a.image_id for a in answers.values() if a.error):
            yield (
                f"{len(errors)} images cannot be decoded; their expressions count as predicted empty: "
                f"{', '.join(errors[:3])} (all are in metrics.json)"
            )
        if self.leaky:
            yield "LEAKY: images of this split were seen in training, or nobody knows; do not compare these numbers"

    def compare(self, accumulator: Any, other: Path) -> dict[str, Any]:
        from mail.metrics import paired_bootstrap, read_per_expression

        theirs = read_per_expression(other / "per_expression.jsonl")
        if theirs.protocol != self.protocol:
            raise UserError(f"{other} was counted by protocol {theirs.protocol.name}, not {self.protocol.name}")
        return paired_bootstrap(accumulator.counts, theirs.counts, protocol=self.protocol)


def _predict_on_ray(job: _Job, pending: list[int], workers: int | None) -> Iterator[Any]:
    from pipelines.evaluation_workers import predict

    return predict(job, pending, workers)


def _predict_here(job: _Job, pending: list[int], _: int | None) -> Iterator[Any]:
    from mail.evaluation import SplitInput, answers
    from mail.inference import Predictor

    predictor = Predictor.from_pretrained(job.folder)
    source = SplitInput.of(job.store, job.plan, job.snapshot)
    return answers(predictor, source, pending, job.protocol.threshold, job.side)


def _absolute(uri: str) -> str:
    """Workers run in other folders than this process."""
    return uri if "://" in uri else os.path.abspath(uri)


def _lineage(folder: Path) -> dict[str, Any] | None:
    from mail import lineage

    return lineage.read(folder) if (folder / lineage.FILE).exists() else None


def _check_leakage(stage: Evaluate, store: Any, snapshot: Any, lineage: dict[str, Any] | None) -> bool:
    from mail.leakage import check_leakage, is_evaluation_split

    leaky = False
    if snapshot is not None:
        leaky = check_leakage(snapshot, store, [stage.split], stage.allow_leaky, f"proposer {snapshot.proposer_id}")
    if not is_evaluation_split(stage.split):
        return leaky
    if lineage is None:
        say(
            f"{stage.model} has no lineage.json: nobody knows what it was trained on, so the results are labelled leaky"
        )
        return True
    source = lineage.get("data_store") or {}
    if source.get("digest") != store.digest:
        images = _training_images(source)
        if images is None:
            name, where = source.get("name") or "a data store", source.get("uri") or "a place that was not recorded"
            say(
                f"the model was trained on {name} {str(source.get('digest'))[:12]}, which is not at {where} now: "
                "nobody can tell which images that were, so the results are labelled leaky"
            )
            return True
        leaky |= check_leakage({"image_ids": images}, store, [stage.split], stage.allow_leaky, "the model")
    return leaky or bool(lineage.get("leaky"))


def _training_images(source: dict[str, Any]) -> set[str] | None:
    """Ids of the images of the data store that a lineage names; None if it is gone or another one by now."""
    from mail.data.store import DataStore

    if not source.get("uri"):
        return None
    try:
        store = DataStore(source["uri"])
    except UserError:
        return None
    if store.digest != source.get("digest"):
        return None
    return set(store.expressions(["train"], ["image_id"])["image_id"].to_pylist())
