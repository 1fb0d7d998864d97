"""`mail-ris score`: anyone's predictions against a split of a data store, counted as our own are."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import tyro

from mail.data import files
from mail.data.coco import CocoInstances
from mail.data.store import DataStore
from mail.errors import UserError
from mail.lineage import code_version
from mail.metrics import (
    MetricsReport,
    get_protocol,
    paired_bootstrap,
    read_any_predictions,
    read_per_expression,
    score_predictions,
    slice_expressions,
)
from mail.metrics.dumps import is_dump
from mail.metrics.explaining import THRESHOLDS, Explanation, explain, read_stated
from mail.metrics.predictions import PredictionSet
from mail.metrics.protocols import Protocol
from mail.metrics.summed import summed_targets
from pipelines.evaluating.tables import of_what, print_differences, print_explanation, print_report, summary
from pipelines.options import Address, Target
from pipelines.stage import Stage
from pipelines.terminal import done, say


@dataclass(kw_only=True)
class Score(Stage):
    """Score predictions: oIoU, mIoU, Prec@.5-.9 (and gRefCOCO's figures), every expression of the split once."""

    data: Address
    """Data store with the ground truth (local path or s3://)."""

    split: str
    """Split to score on, for example val or testA."""

    predictions: Address
    """JSON lines {"expr_id": ..., "rle": {"size": [h, w], "counts": "..."} or null}; or what published systems write:
    COCO results (JSON), a folder of PNGs named by expr_id (slashes as __), sentence id or place, a dump of torch (.pt,
    .pth) or numpy (.npz, .npy). docs/metrics.md says how their masks are joined to the expressions."""

    protocol: str = "original"
    """How pixels are counted: original, or as published code does it: lavt, cris, rela."""

    explain: str | None = None
    """A number that was stated for these predictions, as 72.73: says which protocol, figure and conventions come near
    it, nearest first."""

    instances: Address | None = None
    """With --explain: the COCO instances that the store's masks are from, to try polygons summed instead of united."""

    json: Target | None = None
    """File for the figures as JSON."""

    per_expression: Target | None = None
    """File for each expression's IoU and pixel counts, as JSON lines."""

    compare: Address | None = None
    """Per-expression file of another model on the same split: adds a paired bootstrap of the difference."""

    allow_missing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Count a missing prediction as the empty mask, and leave out predictions of other splits."""

    slices: bool = True
    """Figures by category, length, target size, same-category referents and kind of words."""

    def plan(self) -> dict[str, Any]:
        store = DataStore(self.data)
        expressions = store.splits[store.check_split(self.split)]["expressions"]
        protocol = get_protocol(self.protocol)
        if not files.exists(*files.resolve(self.predictions)):
            raise UserError(f"there is no predictions file or folder {self.predictions}")
        self._check_explain()
        return {
            "expressions": expressions,
            "data_store": {"name": store.name, "digest": store.digest},
            "protocol": protocol.description,
            "predictions": "as published systems write them" if is_dump(self.predictions) else "JSON lines",
        }

    def _check_explain(self) -> None:
        if self.explain is not None:
            read_stated(self.explain)
        elif self.instances is not None:
            raise UserError("--instances is for --explain, which is not given")

    def run(self) -> Any:
        written = [f for f in (self.json, self.per_expression) if f]
        for file in written:
            files.check_file_writable(file)
        self._check_explain()
        protocol, store = get_protocol(self.protocol), DataStore(self.data)
        expressions = store.expressions([self.split])
        if not len(expressions):
            raise UserError(f"split {self.split!r} of {self.data} has no expressions")
        found = read_any_predictions(self.predictions, expressions, protocol.threshold)
        folder = files.is_folder(self.predictions)
        sha256 = None if folder else hashlib.sha256(files.read_bytes(*files.resolve(self.predictions))).hexdigest()
        count = f"{len(found.masks)} predictions, joined by {found.joined},"
        say(f"scoring {count} against {len(expressions)} expressions of {self.split}")
        accumulator, coverage = score_predictions(
            expressions, found, split=self.split, protocol=protocol, allow_missing=self.allow_missing
        )
        if coverage.missing:
            say(f"{len(coverage.missing)} expressions have no prediction and count as predicted empty")
        if coverage.unknown:
            say(f"{len(coverage.unknown)} predictions are not of {self.split} and were left out")
        if coverage.network_size is not None:
            how = "as they are" if coverage.network_size == protocol.resolution else "enlarged by nearest neighbour"
            height, width = coverage.network_size
            say(f"all masks are {height} x {width}, a network's size: taken for whole images squashed, counted {how}")
        source: dict[str, Any] = {
            "source": self.predictions,
            "sha256": sha256,
            "joined_by": found.joined,
            **coverage.to_dict(),
        }
        source |= {"network_size": coverage.network_size} if coverage.network_size else {}
        extra: dict[str, Any] = {"predictions": source, "code_version": code_version()}
        explanation = self._explain(expressions, found, protocol)
        if explanation is not None:
            extra["explained"] = explanation.to_dict()
        if self.compare:
            other = read_per_expression(self.compare)
            if other.protocol != protocol:
                raise UserError(
                    f"{self.compare} was counted by protocol {other.protocol.name}, not {protocol.name}: score it again"
                )
            differences = paired_bootstrap(accumulator.counts, other.counts, protocol=protocol)
            extra["compared"] = {"with": self.compare, **{k: d._asdict() for k, d in differences.items()}}
        context = store.expressions(columns=["image_id", "ann_ids", "category"]) if self.slices else None
        slices = slice_expressions(expressions, context) if self.slices else None
        report = MetricsReport.build(accumulator, store=store, split=self.split, slices=slices, extra=extra)
        print_report(report)
        if explanation is not None:
            print_explanation(explanation, of_what(report))
        if self.compare:
            print_differences(differences, self.compare, of_what(report))
        if self.json:
            report.write_json(self.json)
        if self.per_expression:
            report.write_per_expression(self.per_expression)
        done(summary(report) + (f" -> {', '.join(written)}" if written else ""))
        return report

    def _explain(self, expressions: pa.Table, found: PredictionSet, protocol: Protocol) -> Explanation | None:
        if self.explain is None:
            return None
        by_threshold = {protocol.threshold: found}
        if is_dump(self.predictions):  # which may hold probabilities
            for threshold in set(THRESHOLDS) - {protocol.threshold}:
                other = read_any_predictions(self.predictions, expressions, threshold)
                by_threshold |= {threshold: other} if other.masks != found.masks else {}
        summed = None if self.instances is None else summed_targets(expressions, CocoInstances(self.instances))
        return explain(
            self.explain,
            expressions,
            by_threshold,
            split=self.split,
            protocol=protocol,
            summed=summed,
            allow_missing=self.allow_missing,
            progress=lambda text: say(f"counting {text}"),
        )
