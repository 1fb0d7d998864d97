"""`mail-ris score`: anyone's predictions against a split of a data store, counted as our own are."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from mail.data import files
from mail.data.store import DataStore
from mail.errors import UserError
from mail.lineage import code_version
from mail.metrics import (
    MetricsReport,
    get_protocol,
    paired_bootstrap,
    read_per_expression,
    read_prediction_folder,
    read_predictions,
    score_predictions,
    slice_expressions,
)
from pipelines.evaluating.tables import of_what, print_differences, print_report, summary
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
    """JSON lines {"expr_id": ..., "rle": {"size": [h, w], "counts": "..."} or null}, or a folder of PNG masks named
    EXPR_ID.png (slashes written as __)."""

    protocol: str = "original"
    """How pixels are counted: original, or as published code does it: lavt, cris, rela."""

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
        filesystem, path = files.resolve(self.predictions)
        if not files.exists(filesystem, path):
            raise UserError(f"there is no predictions file or folder {self.predictions}")
        return {
            "expressions": expressions,
            "data_store": {"name": store.name, "digest": store.digest},
            "protocol": protocol.description,
            "predictions": "folder of PNGs" if files.is_folder(self.predictions) else "JSON lines",
        }

    def run(self) -> Any:
        written = [f for f in (self.json, self.per_expression) if f]
        for file in written:
            files.check_file_writable(file)
        protocol, store = get_protocol(self.protocol), DataStore(self.data)
        expressions = store.expressions([self.split])
        if not len(expressions):
            raise UserError(f"split {self.split!r} of {self.data} has no expressions")
        if files.is_folder(self.predictions):
            found, sha256 = read_prediction_folder(self.predictions, expressions["expr_id"].to_pylist()), None
        else:
            found = read_predictions(self.predictions)
            sha256 = hashlib.sha256(files.read_bytes(*files.resolve(self.predictions))).hexdigest()
        say(f"scoring {len(found.masks)} predictions against {len(expressions)} expressions of {self.split}")
        accumulator, coverage = score_predictions(
            expressions, found, split=self.split, protocol=protocol, allow_missing=self.allow_missing
        )
        if coverage.missing:
            say(f"{len(coverage.missing)} expressions have no prediction and count as predicted empty")
        if coverage.unknown:
            say(f"{len(coverage.unknown)} predictions are not of {self.split} and were left out")
        source = {"source": self.predictions, "sha256": sha256, **coverage.to_dict()}
        extra: dict[str, Any] = {"predictions": source, "code_version": code_version()}
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
        if self.compare:
            print_differences(differences, self.compare, of_what(report))
        if self.json:
            report.write_json(self.json)
        if self.per_expression:
            report.write_per_expression(self.per_expression)
        done(summary(report) + (f" -> {', '.join(written)}" if written else ""))
        return report
