"""Metrics on the screen: one table that says what was counted, one for the slices."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from mail.metrics import Difference, Measures, MetricsReport
from mail.metrics.explaining import Explanation
from pipelines.registry.comparison import Comparison

COLUMNS = ("expressions", "oIoU", "mIoU", "P@.5", "P@.6", "P@.7", "P@.8", "P@.9")


def print_report(report: MetricsReport) -> None:
    """Prints the figures in points (percent), on standard output."""
    console = Console(highlight=False, width=max(Console().width, 110))
    table = Table(
        title=of_what(report),
        title_justify="left",
        caption=report.protocol.description,
        caption_justify="left",
    )
    grefcoco = report.measures.no_target > 0
    for name in (*COLUMNS, *(("gIoU", "cIoU", "N-acc", "T-acc", "no target") if grefcoco else ())):
        table.add_column(name, justify="right")
    m = report.measures
    extra = (*map(points, (m.gIoU, m.cIoU, m.n_acc, m.t_acc)), str(m.no_target)) if grefcoco else ()
    table.add_row(*row_of(m), *extra)
    console.print(table)
    if report.selection is not None:
        console.print(_selection_table({"": report.selection.to_dict()}, of_what(report)))
    if report.slices:
        console.print(_slice_table(report))


SELECTION = {  # column -> figure of `Selection`
    "with a target": "expressions",
    "best proposal": "ceiling",
    "the chosen": "chosen",
    "final mask": "final",
    "good chosen": "chosen_good",
    "passed over": "passed_over",
    "none there": "none_there",
    "mended": "mended",
    "spoilt": "spoilt",
}


def selection_cells(selection: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Cells of the columns of `SELECTION`, in points; of a network without proposals dashes."""
    if selection is None:
        return ("-",) * len(SELECTION)
    return (str(selection["expressions"]), *(points(selection[name]) for name in list(SELECTION.values())[1:]))


def _selection_table(rows: Mapping[str, Mapping[str, Any] | None], what: str) -> Table:
    """Of `selection` of metrics files, by what the rows are called."""
    table = Table(
        title=f"selection of {what}",
        title_justify="left",
        caption="mean IoU of the best proposal, of the chosen one and of the final mask; shares of the expressions for "
        "which a proposal of IoU >= .5 was chosen, was there but another or none was chosen, was not there, in which "
        "the pixels mended either, or spoilt a good one",
        caption_justify="left",
    )
    named = any(rows)
    for name in (*(["version"] if named else []), *SELECTION):
        table.add_column(name, justify="right")
    for name, selection in rows.items():
        table.add_row(*([name] if named else []), *selection_cells(selection))
    return table


def of_what(report: MetricsReport) -> str:
    """What every table says above its numbers; the numbers of expressions are in its rows."""
    return _of_what(report.data_store, report.split, report.protocol.name)


def _of_what(store: Mapping[str, str], split: str, protocol: str) -> str:
    return f"{store['name']} / {split}, protocol {protocol}, data store {store['digest'][:12]}"


def print_differences(differences: dict[str, Difference], other: str, what: str) -> None:
    """Prints a paired bootstrap, in points; `what` as `of_what` gives it."""
    console = Console(highlight=False, width=max(Console().width, 110))
    first = next(iter(differences.values()))
    drawn = f"{first.resamples} resamples of {first.expressions} expressions"
    table = Table(title=f"{what}\nagainst {other}: paired bootstrap, {drawn}", title_justify="left")
    for name in ("", "this", "other", "difference", f"{first.confidence:.0%} interval", "better in"):
        table.add_column(name, justify="right")
    for name, d in differences.items():
        interval = f"{100 * d.lower:+.2f} .. {100 * d.upper:+.2f}"
        share = f"{d.positive:.1%} of resamples"
        table.add_row(name, points(d.candidate), points(d.baseline), f"{100 * d.difference:+.2f}", interval, share)
    console.print(table)


def print_explanation(explanation: Explanation, what: str, most: int = 12) -> None:
    """Prints which ways of counting come near a stated number, nearest first, and what it means."""
    console = Console(highlight=False, width=max(Console().width, 110))
    shown = f"{100 * explanation.stated:.{explanation.decimals}f}"
    table = Table(
        title=f"{what}: what comes near {shown}",
        title_justify="left",
        caption=f"the {min(most, len(explanation.ways))} nearest of {len(explanation.ways)} figures; not tried: "
        + "; ".join(explanation.not_tried),
        caption_justify="left",
    )
    for name in ("figure", "value", "away"):
        table.add_column(name, justify="left" if name == "figure" else "right", no_wrap=True)
    table.add_column("protocol", no_wrap=True)
    table.add_column(f"differs from {explanation.protocol} in")
    for way in explanation.ways[:most]:
        away = round(100 * way.away, 2) + 0.0  # which is no -0
        cells = (way.figure, points(way.value), f"{away:+.2f}")
        table.add_row(*cells, way.protocol or "-", "; ".join(way.differs) or "nothing")
    console.print(table)
    console.print(explanation.words, markup=False)


class Row(NamedTuple):
    """A model against the one that it goes on from, on one split: what data it is, and the figures' differences."""

    what: str
    store: str
    split: str
    differences: Mapping[str, Difference]

    def record(self) -> dict[str, Any]:
        found = {name: d._asdict() for name, d in self.differences.items()}
        return {"what": self.what, "data_store": self.store, "split": self.split, "difference": found}

    def cells(self, name: str) -> tuple[str, ...]:
        d = self.differences[name]
        interval = f"{100 * d.lower:+.2f} .. {100 * d.upper:+.2f}"
        where = f"{self.what}: {self.store} / {self.split}"
        difference = f"{100 * d.difference:+.2f}"
        return where, str(d.expressions), name, points(d.candidate), points(d.baseline), difference, interval


def print_rows(rows: Sequence[Row]) -> None:
    """Prints what was won on the new data and what was lost on the parent's, in points."""
    console = Console(highlight=False, width=max(Console().width, 110))
    table = Table(title="against the model that it goes on from: paired bootstrap", title_justify="left")
    for name in ("", "expressions", "", "this", "parent", "difference", "95% interval"):
        table.add_column(name, justify="left" if not name else "right")
    for row in rows:
        for name in row.differences:
            table.add_row(*row.cells(name))
    console.print(table)


def print_comparison(comparison: Comparison, candidate: str, champion: str | None) -> None:
    """Prints what a promotion was decided by: both versions' figures, or the candidate's where there is no champion."""
    ours, theirs = comparison.candidate.figures, comparison.champion and comparison.champion.figures
    console = Console(highlight=False, width=max(Console().width, 110))
    what = _of_what(ours["data_store"], comparison.split, comparison.protocol)
    table = Table(title=what, title_justify="left")
    for column in ("version", *COLUMNS):
        table.add_column(column, justify="right")
    for number, m in ((candidate, ours), (champion, theirs)):
        if m:
            figures = (points(v) for v in (m["oIoU"], m["mIoU"], *m["prec"].values()))
            table.add_row(str(number), str(m["expressions"]), *figures)
    console.print(table)
    selections = {str(n): m.get("selection") for n, m in ((candidate, ours), (champion, theirs)) if m}
    if any(selections.values()):
        console.print(_selection_table(selections, what))
    if comparison.differences:
        print_differences(comparison.differences, "its parent" if champion == "parent" else f"version {champion}", what)


def points(value: float | None) -> str:
    """A fraction as points with two decimals, `-` where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def summary(report: MetricsReport) -> str:
    """One line for a stage's summary."""
    m = report.measures
    return (
        f"{report.split}: oIoU {points(m.oIoU)}, mIoU {points(m.mIoU)}, Prec@.5 {points(m.prec['0.5'])} "
        f"({m.expressions} expressions, protocol {report.protocol.name}, "
        f"data store {report.data_store['digest'][:12]})"
    )


def _slice_table(report: MetricsReport) -> Table:
    table = Table(title=f"slices of {of_what(report)}", title_justify="left")
    table.add_column("slice", no_wrap=True)
    table.add_column("value", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, groups in report.slices.items():
        shown = list(groups.items())[:12]
        for number, (value, measures) in enumerate(shown):
            table.add_row(name if number == 0 else "", value, *row_of(measures), end_section=number == len(shown) - 1)
    return table


def row_of(m: Measures) -> tuple[str, ...]:
    """Cells of the `COLUMNS`."""
    return (str(m.expressions), points(m.oIoU), points(m.mIoU), *(points(v) for v in m.prec.values()))
