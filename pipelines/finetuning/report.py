"""What a fine-tuning has brought: report.json and report.html, with the interval and pictures."""

import json
import random
from pathlib import Path
from typing import Any

from mail.data import files
from mail.data.images import decode_image
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.metrics import read_per_expression, read_predictions
from mail.metrics.measure import iou
from mail.proposals import Proposals
from mail.report.demo_page import Example, write_demo_page

TITLES = {"parent": "before", "child": "after"}
TEMPLATE = "fine_tune_report.html.j2"


def write_report(
    out: Path, data: str, masks: str | None, folders: dict[str, Path], facts: dict[str, Any], pictures: int
) -> dict[str, Any]:
    """Writes OUT/report.json and OUT/report.html of a finished fine-tuning.

    Args:
        folders: of the evaluation on the new data, by split; the parent's is in `parent` inside of it.
        facts: what only the chain knows, copied into the report. pictures: expressions to show.

    Returns:
        What `report.json` holds.
    """
    splits, sentences, forgetting = {}, [], []
    for split, folder in folders.items():
        figures = json.loads((folder / "metrics.json").read_text())
        found = {name: figures["compared"][name] for name in ("mIoU", "oIoU")}
        splits[split] = {"expressions": figures["expressions"], "leaky": figures["leaky"], **found}
        sentences += [sentence(name, d, f"{figures['data_store']['name']} / {split}") for name, d in found.items()]
        forgetting += [row for row in figures.get("forgetting", []) if row not in forgetting]
    for row in forgetting:
        where = f"{row['data_store']} / {row['split']}, which the model before was trained for"
        sentences += [sentence(name, d, where) for name, d in row["difference"].items()]
    report = {**facts, "new_data": splits, "forgetting": forgetting, "sentences": sentences}
    files.write_bytes(*files.resolve(out / "report.json"), (json.dumps(report, indent=2) + "\n").encode())
    write_demo_page(out / "report.html", report, [], _examples(data, masks, folders, pictures), TEMPLATE)
    return report


def sentence(figure: str, d: dict[str, Any], where: str) -> str:
    """What a paired bootstrap says, in words and points."""
    return (
        f"{where}: the new model is {100 * d['difference']:+.2f} points of {figure} ({100 * d['candidate']:.2f} after "
        f"{100 * d['baseline']:.2f}), {d['confidence']:.0%} from {100 * d['lower']:+.2f} to {100 * d['upper']:+.2f}, "
        f"on {d['expressions']} expressions"
    )


def _examples(data: str, masks: str | None, folders: dict[str, Path], pictures: int) -> dict[str, list[Example]]:
    store = DataStore(data)
    ious: dict[str, dict[str, float]] = {side: {} for side in TITLES}
    answers: dict[str, dict[str, Any]] = {side: {} for side in TITLES}
    for folder in folders.values():
        for side, place in (("parent", folder / "parent"), ("child", folder)):
            counts = read_per_expression(place / "per_expression.jsonl").counts
            ious[side] |= {expr_id: iou(found) for expr_id, found in counts.items()}
            answers[side] |= read_predictions(place / "predictions.jsonl").masks
    known = sorted(ious["child"])
    ranked = sorted(known, key=lambda e: ious["parent"][e] - ious["child"][e])
    some = max(1, pictures // 2)
    chosen = {
        "Held-out expressions, chosen at random": random.Random(0).sample(known, min(pictures, len(known))),
        "Won most": ranked[:some],
        "Lost most": ranked[::-1][:some],
    }
    wanted = {e for ids in chosen.values() for e in ids}
    rows = {r["expr_id"]: r for r in store.expressions(list(folders)).to_pylist() if r["expr_id"] in wanted}
    images = {r["image_id"] for r in rows.values()}
    pixels = {
        image["image_id"]: decode_image(image["image"])
        for batch in store.images(["image_id", "image", "height"])
        for image in batch.to_pylist()
        if image["image_id"] in images and image["height"]
    }
    proposals = MaskTable(masks).snapshot().proposals(sorted(images)) if masks is not None else {}

    def example(expr_id: str) -> Example:
        row = rows[expr_id]
        image = pixels[row["image_id"]]
        return Example(
            text=row["text"],
            split=row["split"],
            image=image,
            target=row["target"],
            proposals=proposals.get(row["image_id"], Proposals((image.shape[0], image.shape[1]))),
            predictions={title: answers[side][expr_id].rle for side, title in TITLES.items()},
            ious={title: ious[side][expr_id] for side, title in TITLES.items()},
        )

    return {
        heading: [example(e) for e in ids if rows[e]["image_id"] in pixels] for heading, ids in chosen.items() if ids
    }
