"""The gallery of an evaluation: answers, ground truth and masks brought together for `mail.report.gallery`."""

import json
from collections.abc import Mapping
from pathlib import Path

from mail import rle
from mail.addresses import REGISTRY
from mail.data.mask_snapshot import MaskSnapshot
from mail.evaluation import ImageAnswer, SplitPlan
from mail.metrics import MetricsReport, read_per_expression, read_predictions
from mail.metrics.measure import iou, measure
from mail.metrics.selection import Choice
from mail.report.gallery import GalleryAnswer, GalleryEntry, GalleryImage, write_gallery
from pipelines.evaluating.tables import COLUMNS, SELECTION, row_of, selection_cells

IMAGES_PER_READ = 256


def write_evaluation_gallery(
    path: Path,
    *,
    folder: Path,
    model: str,
    plan: SplitPlan,
    snapshot: MaskSnapshot | None,
    answers: Mapping[str, ImageAnswer],
    report: MetricsReport,
    slices: Mapping[str, Mapping[str, str]],
    compare: Path | None = None,
) -> int:
    """Writes the page of an evaluation, beside another one's if `compare` names its folder.

    Args:
        folder: of the evaluation. model: its address. answers: by image id. slices: by name, each expression's value.
    """
    counts = report.accumulator.counts
    others, other_counts = {}, {}
    if compare is not None:
        others = read_predictions(compare / "predictions.jsonl").masks
        other_counts = read_per_expression(compare / "per_expression.jsonl").counts
    expressions = plan.expressions
    rows = {r["expr_id"]: r for r in expressions.select(["expr_id", "text", "target"]).to_pylist()}
    entries, images = [], {}
    for start in range(0, len(plan.images), IMAGES_PER_READ):
        part = plan.images[start : start + IMAGES_PER_READ]
        proposals = snapshot.proposals([i.image_id for i in part]) if snapshot is not None else {}
        for image in part:
            answer = answers[image.image_id]
            height, width = image.size
            images[image.image_id] = GalleryImage(height, width, answer.thumbnail)
            found = proposals[image.image_id].rles if image.image_id in proposals else []
            for expr_id in image.expr_ids:
                own = answer.predictions[expr_id]
                chosen = [found[i] for i in own.selection if 0 <= i < len(found)]
                choice = report.choices[expr_id] if report.choices is not None else None
                best = rle.union([found[i] for i in choice.best], image.size) if choice and choice.best else None
                shown = [
                    GalleryAnswer(
                        own.rle, iou(counts[expr_id], report.protocol), own.score, chosen, best, _notes(choice)
                    )
                ]
                if expr_id in others:
                    other, value = others[expr_id], iou(other_counts[expr_id], report.protocol)
                    shown.append(GalleryAnswer(other.rle, value, other.score))
                row = rows[expr_id]
                values = {name: by_id[expr_id] for name, by_id in slices.items()}
                values |= {"selection": choice.outcome} if choice is not None else {}
                entries.append(GalleryEntry(expr_id, image.image_id, row["text"], row["target"], shown, values))
    names = [_name(model, folder), *([_name(str(compare), compare)] if compare is not None else [])]
    figures = [["", *COLUMNS], [names[0], *row_of(report.measures)]]
    if compare is not None:
        figures.append([names[1], *row_of(measure(other_counts, report.protocol))])
    if report.selection is not None:
        metrics = compare / "metrics.json" if compare is not None else None
        theirs = json.loads(metrics.read_text()).get("selection") if metrics is not None and metrics.exists() else None
        cells = [[*SELECTION], selection_cells(report.selection.to_dict()), selection_cells(theirs)]
        figures = [[*row, *more] for row, more in zip(figures, cells, strict=False)]
    store = report.data_store
    facts = [
        f"protocol {report.protocol.name}: {report.protocol.description}",
        f"{report.measures.expressions} expressions on {len(images)} images",
        f"data store {store['name']} {store['digest'][:12]}",
        f"masks of {snapshot.proposer_id}" if snapshot is not None else "no instance masks",
        *(["LEAKY: images of this split were seen in training, or nobody knows"] if report.extra.get("leaky") else []),
    ]
    title = f"{store['name']} / {report.split}: {names[0]}"
    return write_gallery(path, title=title, models=names, images=images, entries=entries, facts=facts, figures=figures)


def _notes(choice: Choice | None) -> tuple[str, ...]:
    """What a card says of the proposals."""
    if choice is None or choice.ceiling is None:
        return ()
    chosen = "none chosen" if not choice.taken else f"chosen {choice.chosen:.3f}"
    return f"best proposal {choice.ceiling:.3f}", chosen


def _name(address: str, folder: Path) -> str:
    """A model's name on the page: its registry address, or the last part of a path that says something."""
    if address.startswith(REGISTRY):
        return address.removeprefix(REGISTRY)
    return Path(address).name if Path(address).name not in ("", "model") else folder.name
