"""What the demo shows at its end: report.json, report.html and a table on the screen."""

import json
import os
import platform
import random
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mail import json_text
from mail.data import files
from mail.data.images import decode_image
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.metrics import Accumulator, Measures, measure, read_per_expression, read_predictions
from mail.metrics.measure import iou
from mail.metrics.selection import Selection
from mail.proposers.quality import proposal_quality
from mail.report.demo_page import Curve, Example, write_demo_page
from pipelines.evaluating.tables import points
from pipelines.registry.client import connect

SPLITS = ("testA", "testB")
NETWORKS = {"with-masks": "with instance masks", "without-masks": "without instance masks"}
CURVES = {"training loss": "train/loss", "mIoU on val": "validation/mIoU"}


def write_report(out: Path, facts: dict[str, Any], runs: dict[str, str], pictures: int) -> dict[str, Any]:
    """Measures what a finished demo has left in `out` and writes OUT/report.json and OUT/report.html.

    Args:
        facts: what only the demo itself knows (seconds, settings, model version), copied into the report.
        runs: MLflow run of each network. pictures: expressions to show.

    Returns:
        What `report.json` holds.
    """
    store = DataStore(out / "store")
    counts = {network: _counts(out / "evaluations" / network) for network in NETWORKS}
    with_masks, without = (_figures(measure(counts[network].counts)) for network in NETWORKS)
    quality = proposal_quality(store, MaskTable(str(out / "masks")).snapshot(), SPLITS)
    report = {
        **facts,
        "seconds_total": round(sum(facts["seconds"].values()), 1),
        "hardware": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "data": {"name": store.name, "digest": store.digest, "splits": store.splits},
        "splits": list(SPLITS),
        "expressions": len(counts["with-masks"]),
        "proposal_recall_50": quality.pop("proposal_recall_50"),
        "proposals": quality,
        "selection": _selection(out / "evaluations" / "with-masks"),
        "with_masks": with_masks,
        "without_masks": without,
        "gain": {name: with_masks[name] - without[name] for name in with_masks},
    }
    files.write_bytes(*files.resolve(out / "report.json"), (json.dumps(report, indent=2) + "\n").encode())
    write_demo_page(out / "report.html", report, _curves(runs), _examples(out, store, counts, pictures))
    return report


def print_table(report: dict[str, Any]) -> None:
    """Prints the figures and the times, in points and seconds."""
    title = f"held-out {' + '.join(SPLITS)}, {report['expressions']} expressions, original resolution"
    table = Table(title=title, title_justify="left")
    for name in ("", "oIoU", "mIoU", "Prec@.5"):
        table.add_column(name, justify="right" if name else "left")
    rows = {"with instance masks": "with_masks", "without": "without_masks", "gain": "gain"}
    for name, key in rows.items():
        table.add_row(name, *(f"{100 * value:.1f}" for value in report[key].values()))
    screen = Console(highlight=False)
    screen.print(table)
    screen.print(", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["seconds"].items()))
    chosen = {name: points(value) for name, value in report["selection"].items() if name != "outcomes"}
    screen.print(
        "selection: mIoU of the best proposal {ceiling}, of the chosen {chosen}; a good one chosen {chosen_good} %, "
        "passed over {passed_over} %, not there {none_there} %, mended by the pixels {mended} %".format(**chosen)
    )
    screen.print(
        f"proposals: recall {100 * report['proposal_recall_50']:.1f} at IoU .5; "
        f"champion: mail-ris version {report['model_version']}"
    )


def _selection(folder: Path) -> dict[str, Any]:
    """What the network with masks chose in both test splits."""
    found = (json_text.parse_object((folder / split / "metrics.json").read_text()) for split in SPLITS)
    return Selection.together([chosen for figures in found if (chosen := figures.get("selection"))]).to_dict()


def _counts(folder: Path) -> Accumulator:
    """The counts of both test splits together, every expression once."""
    first, second = (read_per_expression(folder / split / "per_expression.jsonl") for split in SPLITS)
    return first.merge(second)


def _figures(measures: Measures) -> dict[str, float]:
    prec = measures.prec["0.5"]
    assert measures.oIoU is not None
    assert measures.mIoU is not None
    assert prec is not None
    return {"oIoU": measures.oIoU, "mIoU": measures.mIoU, "prec_50": prec}


def _curves(runs: dict[str, str]) -> list[Curve]:
    """Loss and validation curves of the runs, from MLflow."""
    client = connect()
    curves = []
    for title, key in CURVES.items():
        found = {
            NETWORKS[network]: sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))
            for network, run_id in runs.items()
        }
        if all(found.values()):
            curves.append(Curve(title=title, runs=found))
    return curves


def _examples(out: Path, store: DataStore, counts: dict[str, Accumulator], pictures: int) -> dict[str, list[Example]]:
    """Held-out expressions at random, and those where the network with masks fails most."""
    expr_ids = sorted(counts["with-masks"].counts)
    ious = {network: {e: iou(counts[network].counts[e]) for e in expr_ids} for network in NETWORKS}
    chosen = {
        "Held-out expressions, chosen at random": random.Random(0).sample(expr_ids, min(pictures, len(expr_ids))),
        "Where the network with masks fails most": sorted(expr_ids, key=ious["with-masks"].__getitem__)[
            : pictures // 2
        ],
    }
    wanted = {e for ids in chosen.values() for e in ids}
    rows = {r["expr_id"]: r for r in store.expressions(SPLITS).to_pylist() if r["expr_id"] in wanted}
    images = {r["image_id"] for r in rows.values()}
    pixels = {
        image["image_id"]: decode_image(image["image"])
        for batch in store.images(["image_id", "image"])
        for image in batch.to_pylist()
        if image["image_id"] in images
    }
    proposals = MaskTable(str(out / "masks")).snapshot().proposals(sorted(images))
    masks = {
        network: {
            expr_id: prediction.rle
            for split in SPLITS
            for expr_id, prediction in read_predictions(folder / split / "predictions.jsonl").masks.items()
        }
        for network, folder in ((n, out / "evaluations" / n) for n in NETWORKS)
    }

    def example(expr_id: str) -> Example:
        row = rows[expr_id]
        return Example(
            text=row["text"],
            split=row["split"],
            image=pixels[row["image_id"]],
            target=row["target"],
            proposals=proposals[row["image_id"]],
            predictions={title: masks[network][expr_id] for network, title in NETWORKS.items()},
            ious={title: ious[network][expr_id] for network, title in NETWORKS.items()},
        )

    return {heading: [example(e) for e in ids] for heading, ids in chosen.items()}
