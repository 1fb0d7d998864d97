"""The table of the paper with our figures beside it, of what was evaluated: table.json, table.md, report.html."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mail import addresses
from mail.data import files
from mail.metrics.over_seeds import interval
from mail.report.paper_page import write_paper_page
from pipelines.reproducing.paper import PART_OF, SHARED_PHOTOS, Row

PROTOCOLS = ("original", "lavt")
WITH, WITHOUT = "with masks", "without masks"
HEAD = (
    "row",
    "paper",
    "ours",
    "difference",
    "protocol",
    "masks",
    "seeds",
    "95 % +-",
    "mIoU",
    "expressions",
    "hours",
    "label",
)
NOT_RUN = "not run"


@dataclass(frozen=True)
class Place:
    """Where an evaluation is: one network, trained with one seed on one data set, on one split."""

    out: str
    part: str
    network: str
    seed: int

    @property
    def name(self) -> str:
        """Of the training."""
        return f"{self.part}{'' if self.network == WITH else '-without-masks'}-seed{self.seed}"

    def evaluation(self, split: str) -> str:
        """Address of its folder."""
        return addresses.join(self.out, "evaluations", self.name, split)

    def figures(self, split: str, protocol: str) -> dict[str, Any] | None:
        """What `metrics.json` or its like of another protocol holds; None if it was not evaluated."""
        filesystem, path = files.resolve(addresses.join(self.evaluation(split), file_of(protocol)))
        return json.loads(files.read_bytes(filesystem, path)) if files.exists(filesystem, path) else None


def file_of(protocol: str) -> str:
    """Name of the file with the figures by a protocol."""
    return "metrics.json" if protocol == PROTOCOLS[0] else f"metrics-{protocol}.json"


def collect(
    out: str, rows: Sequence[Row], seeds: int, networks: Sequence[str], seconds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A line for each row of the paper, protocol and network; `ours` is None in those that were not run.

    Args:
        rows: all of the table. seconds: of each training, by its name.
    """
    lines = []
    for row in rows:
        for protocol in PROTOCOLS:
            for network in networks:
                places = [Place(out, row.part, network, seed) for seed in range(seeds)]
                found = [(p, f) for p in places if (f := p.figures(row.split, protocol)) is not None]
                lines.append(_line(row, protocol, network, found, seconds))
    return lines


def _line(
    row: Row, protocol: str, network: str, found: list[tuple[Place, dict[str, Any]]], seconds: Mapping[str, float]
) -> dict[str, Any]:
    line: dict[str, Any] = {"row": row.name, "key": row.key, "paper": row.paper, "protocol": protocol}
    line |= {"masks": network == WITH, "seeds": len(found), "ours": None}
    if not found:
        return line
    (ours, half), (miou, _) = (interval([100 * f[name] for _, f in found]) for name in ("oIoU", "mIoU"))
    leaky = [f["leaky"] for _, f in found]
    return line | {
        "ours": ours,
        "each": [100 * f["oIoU"] for _, f in found],
        "interval": None if math.isnan(half) else half,
        "mIoU": miou,
        "expressions": found[0][1]["expressions"],
        "hours": sum(seconds.get(p.name, 0.0) for p, _ in found) / 3600,
        "label": "leaky" if any(leaky) else "clean",
    }


def cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    """A line for people, in the order of `HEAD`."""
    paper = "-" if line["paper"] is None else f"{line['paper']:.2f}"
    masks = "yes" if line["masks"] else "no"
    if line["ours"] is None:
        return (line["row"], paper, NOT_RUN, "-", line["protocol"], masks, "0", "-", "-", "-", "-", "-")
    same = line["paper"] is not None and line["published_data"]  # or there is nothing to compare with
    apart = f"{line['ours'] - line['paper']:+.2f}" if same else "-"
    label = line["label"] if line["published_data"] else f"{line['label']}, other data"
    half = "-" if line["interval"] is None else f"{line['interval']:.2f}"
    ours, miou, hours = f"{line['ours']:.2f}", f"{line['mIoU']:.2f}", f"{line['hours']:.2f}"
    numbers = (f"{line['seeds']}", half, miou, f"{line['expressions']}", hours, label)
    return (line["row"], paper, ours, apart, line["protocol"], masks, *numbers)


def write_table(out: str, lines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Writes OUT/table.json, OUT/table.md and OUT/report.html; returns the Markdown.

    Args:
        facts: preset, proposer, data stores, code: what a reader must know of the figures.
    """
    rows = [cells(line) for line in lines]
    table = "".join(f"| {' | '.join(row)} |\n" for row in (HEAD, ("---",) * len(HEAD), *rows))
    notes = [f"{key}: {value}" for key, value in facts.items()]
    text = f"# MaIL, overall IoU in points\n\n{table}\n" + "".join(f"* {note}\n" for note in notes)
    whole = json.dumps({"facts": facts, "lines": lines}, indent=2, default=str) + "\n"
    for name, content in (("table.json", whole), ("table.md", text)):
        files.write_bytes(*files.resolve(addresses.join(out, name)), content.encode())
    galleries = {line["row"]: _gallery(out, line) for line in lines if line["ours"] is not None}
    write_paper_page(addresses.join(out, "report.html"), HEAD, rows, notes, galleries)
    return text


def _gallery(out: str, line: Mapping[str, Any]) -> str:
    """Address of the pictures of a row's first seed, from the report on."""
    split = line["key"].rpartition("/")[2]
    return f"{Place(out, PART_OF[line['key']], WITH, 0).evaluation(split).removeprefix(out).strip('/')}/gallery.html"


def notes_on(rows: Sequence[Row], other_data: Sequence[str]) -> dict[str, str]:
    """What has to be said of some rows, and of the data stores that are not what was published."""
    notes = {}
    if any(row.part == SHARED_PHOTOS for row in rows):
        notes["G-Ref Google val"] = "leaky as published: its split divides objects, and photos of val are trained on"
    if other_data:
        names = ", ".join(other_data)
        notes["other data"] = f"{names}: not of the published size, so nothing that the paper's figures compare with"
    return notes
