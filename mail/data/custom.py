"""Reads anyone's own referring data: a JSON Lines file, one expression a line, beside a folder of photos.

    {"expr_id": "1", "image": "a.jpg", "text": "the red cup", "split": "train", "polygons": [[x, y, x, y, ...], ...]}
    {"expr_id": "2", "image": "a.jpg", "text": "a camel", "split": "val", "no_target": true}
    {"expr_id": "3", "image": "b/c.png", "text": "left dog", "split": "val", "rle": {"size": [H, W], "counts": "..."}}

`rle` is COCO's, compressed or not. Optional: `ref_id`, which expressions that mean the same thing share (`expr_id` if
it is not given), and `category`. Masks lie on the picture as a viewer shows it; run lengths that were made for the
unrotated pixels are recognised by their size.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mail import addresses
from mail.data import files
from mail.data.ingest import Findings, Problems, Progress, Referent, Size, SourceImage, ingest
from mail.data.refer import SPLITS, safe_file
from mail.data.store import DataStore, DataStoreWriter
from mail.errors import UserError


@dataclass(slots=True)
class CustomExpression:
    """One line of the file."""

    expr_id: str
    ref_id: str
    image: str
    text: str
    split: str
    segmentation: Any  # None for no target
    category: str


def read_expressions(path: str | Path) -> list[CustomExpression]:
    """All lines of the file.

    Raises:
        UserError: the file cannot be read; or names every line that lacks something or has it in another form.
    """
    path = addresses.local_path(path)
    problems = Problems()
    expressions = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    expressions.append(_expression(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    problems.add("lines cannot be used", f"line {number}: {error}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    problems.raise_if_any(path, 'A line is {"expr_id", "image", "text", "split", "polygons" or "rle" or "no_target"}')
    if not expressions:
        raise UserError(f"{path} has no expressions: every line is one, as JSON")
    return expressions


def write_store(
    expressions_file: str | Path,
    images: str | Path,
    out: str,
    *,
    name: str,
    skip_bad: bool = False,
    prepared_with: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Writes the expressions and the photos that they name as a data store; ids begin with `name`.

    Raises:
        UserError: lines, photos or masks that cannot be used (the latter two are left out with `skip_bad`).
    """
    writer, images = DataStoreWriter(out, name), addresses.local_path(images)
    expressions = read_expressions(expressions_file)
    if not images.is_dir():
        raise UserError(f"there is no folder {images}: --images is where the photos of {expressions_file} are")
    problems = Problems()
    by_image: dict[str, list[CustomExpression]] = {}
    for expression in expressions:
        by_image.setdefault(expression.image, []).append(expression)
    for image in list(by_image):
        path = safe_file(images, image)
        if path is None or not path.is_file():
            problems.add(f"images are missing in {images}", image)
            del by_image[image]
    if not skip_bad:
        problems.raise_if_any(expressions_file, "Complete the folder, or leave these out with --skip-bad")
    findings = ingest(
        _source_images(by_image, images, name),
        writer,
        where=expressions_file,
        total=len(by_image),
        skip_bad=skip_bad,
        progress=progress,
    )
    findings.skipped = problems.counts() | findings.skipped
    source = addresses.local_path(expressions_file)
    record = {"path": source.name, "sha256": files.sha256_file(source), "bytes": source.stat().st_size}
    return writer.finish([record], prepared_with), findings


def _expression(line: Any) -> CustomExpression:
    if not isinstance(line, dict):
        raise ValueError("it is not a JSON object")
    for key in ("expr_id", "image", "text", "split"):
        if not isinstance(line.get(key), str) or not line[key].strip():
            raise ValueError(f"{key} must be text")
    if line["split"] not in SPLITS:
        raise ValueError(f"split {line['split']!r} is none of {', '.join(SPLITS)}")
    given = [key for key in ("polygons", "rle", "no_target") if line.get(key)]
    if len(given) != 1:
        raise ValueError(f"exactly one of polygons, rle and no_target must be given, not {given or 'none'}")
    expr_id = line["expr_id"]
    return CustomExpression(
        expr_id,
        str(line.get("ref_id", expr_id)),
        line["image"],
        line["text"],
        line["split"],
        None if given == ["no_target"] else line[given[0]],
        str(line.get("category", "")),
    )


def _source_images(by_image: dict[str, list[CustomExpression]], folder: Path, name: str) -> Iterator[SourceImage]:
    for image in sorted(by_image):
        referents = [
            Referent(
                f"{name}/{e.ref_id}",
                e.split,
                [(f"{name}/{e.expr_id}", e.text)],
                [] if e.segmentation is None else [e.segmentation],
                [],
                e.category,
                e.segmentation is None,
            )
            for e in by_image[image]
        ]
        yield SourceImage(f"{name}/{image}", folder / image, _annotated_size(by_image[image]), referents)


def _annotated_size(expressions: list[CustomExpression]) -> Size | None:
    """Run lengths say for which size they were made; polygons do not."""
    for expression in expressions:
        size = expression.segmentation.get("size") if isinstance(expression.segmentation, dict) else None
        if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
            return size[0], size[1]
    return None
