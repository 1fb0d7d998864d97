"""A metrics report: figures that always carry their protocol, split, data-store digest and number of expressions."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mail import json_text
from mail.data import files
from mail.data.store import DataStore
from mail.errors import UserError
from mail.metrics.accumulator import Accumulator, Counts
from mail.metrics.measure import Measures, iou, measure
from mail.metrics.protocols import PROTOCOLS, Protocol, get_protocol
from mail.metrics.selection import Choice, Selection
from mail.metrics.slices import members


@dataclass(kw_only=True)
class MetricsReport:
    """The figures of one model (or predictions file) on one split.

    Attributes:
        split: the split's name.
        data_store: `name` and `digest` of the store that holds the ground truth.
        accumulator: the counts of every expression.
        measures: figures of the whole split.
        slices: slice -> value -> figures.
        choices: what a network with proposals chose for each expression; None of one without.
        extra: what else belongs in the JSON (model, mask table, coverage, errors).
    """

    split: str
    data_store: dict[str, str]
    accumulator: Accumulator
    measures: Measures
    slices: dict[str, dict[str, Measures]] = field(default_factory=dict)
    choices: Mapping[str, Choice] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        accumulator: Accumulator,
        *,
        store: DataStore,
        split: str,
        slices: Mapping[str, Mapping[str, str]] | None = None,
        choices: Mapping[str, Choice] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> "MetricsReport":
        """Report of counts; `slices` as `slice_expressions` gives them."""
        return cls(
            split=split,
            data_store={"name": store.name, "digest": store.digest},
            accumulator=accumulator,
            measures=measure(accumulator.counts, accumulator.protocol),
            slices={
                name: {value: measure(accumulator.counts, accumulator.protocol, ids) for value, ids in groups.items()}
                for name, groups in members(slices or {}).items()
            },
            choices=choices,
            extra=dict(extra or {}),
        )

    @property
    def protocol(self) -> Protocol:
        return self.accumulator.protocol

    @property
    def selection(self) -> Selection | None:
        """Where the error sits: in what was proposed, in what was chosen of it, or in the pixels."""
        return None if self.choices is None else Selection.of(self.choices)

    def ious(self) -> dict[str, float]:
        """IoU of each expression, sorted by `expr_id`."""
        counts = self.accumulator.counts
        return {e: iou(counts[e], self.protocol) for e in sorted(counts)}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: `protocol, split, expressions, oIoU, mIoU, prec` first, fractions between 0 and 1."""
        figures = self.measures.to_dict()
        leading = {name: figures.pop(name) for name in ("expressions", "oIoU", "mIoU", "prec")}
        return {
            "protocol": self.protocol.name,
            "split": self.split,
            **leading,
            **figures,
            "data_store": self.data_store,
            **self.extra,
            **({"selection": self.selection.to_dict()} if self.selection else {}),
            "slices": {
                name: {value: measures.to_dict() for value, measures in groups.items()}
                for name, groups in self.slices.items()
            },
            "per_expression": self.ious(),
        }

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `to_dict` as a JSON file."""
        filesystem, target = files.resolve(path)
        files.write_bytes(filesystem, target, (json.dumps(self.to_dict(), indent=2) + "\n").encode())

    def write_per_expression(self, path: str | os.PathLike) -> None:
        write_per_expression(path, self.accumulator)


def write_per_expression(path: str | os.PathLike, accumulator: Accumulator) -> None:
    """JSON lines, sorted by `expr_id`: IoU and the four counts of each expression, and the protocol."""
    lines = []
    for expr_id in sorted(accumulator.counts):
        counts = accumulator.counts[expr_id]
        row = {"expr_id": expr_id, "iou": iou(counts, accumulator.protocol)}
        row |= {name: value for name, value in counts._asdict().items() if value is not None}
        lines.append(json.dumps({**row, "protocol": accumulator.protocol.name}) + "\n")
    filesystem, target = files.resolve(path)
    files.write_bytes(filesystem, target, "".join(lines).encode())


def read_per_expression(path: str | os.PathLike) -> Accumulator:
    """Reads what `write_per_expression` wrote, for comparing two models.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    filesystem, source = files.resolve(path)
    try:
        rows = [json_text.parse_object(line) for line in files.read_bytes(filesystem, source).splitlines()]
        names = {row["protocol"] for row in rows}
        counts = {row["expr_id"]: _counts(row) for row in rows}
    except FileNotFoundError:
        raise UserError(f"there is no file {os.fspath(path)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{os.fspath(path)} does not hold counts per expression ({error!r})") from None
    if len(names) > 1 or len(counts) != len(rows):
        raise UserError(f"{os.fspath(path)} mixes protocols or names an expression twice: score again")
    return Accumulator(get_protocol(names.pop()) if names else PROTOCOLS["original"], counts)


def _counts(row: dict[str, Any]) -> Counts:
    pixels = {name: int(row[name]) for name in ("intersection", "union", "predicted", "target")}
    return Counts(**pixels, targeted=row.get("targeted"), said=row.get("said"))
