"""Reads anyone's own referring data: a JSON Lines file, one expression a line, beside a folder of photos.

    {"expr_id": "1", "image": "a.jpg", "text": "the red cup", "split": "train", "polygons": [[x, y, x, y, ...], ...]}
    {"expr_id": "2", "image": "a.jpg", "text": "a camel", "split": "val", "no_target": true}
    {"expr_id": "3", "image": "b/c.png", "text": "left dog", "split": "val", "rle": {"size": [H, W], "counts": "..."}}

`rle` is COCO's, compressed or not. Optional: `ref_id`, which expressions that mean the same thing share (`expr_id` if
it is not given), and `category`. A null is the same as a value that is not there. Masks lie on the picture as a viewer
shows it, unless the size of run lengths or `exif_annotated` says that they were made for the unrotated pixels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mail import addresses
from mail.data.ingest import Findings, Progress, Referent, SourceImage, ingest, source_record
from mail.data.orientation import AS_SHOWN, ExifAnnotated, Size
from mail.data.photos import find_photos
from mail.data.problems import Problems
from mail.data.refer import SPLITS
from mail.data.store import DataStore, DataStoreWriter
from mail.data.typed import flag, json_value, shown, text, utf8, whole_number
from mail.errors import UserError


def read_expressions(path: str | Path) -> list[tuple[str, Referent]]:
    """All lines of the file: the image's name, and what is said about something in it (ids as in the file).

    Raises:
        UserError: the file cannot be read; or names every line that lacks something or has it in another form.
    """
    path = addresses.local_path(path)
    problems = Problems()
    expressions = []
    try:
        with open(path, "rb") as lines:
            for number, data in enumerate(lines, start=1):
                try:
                    line = utf8(data)
                except ValueError as error:
                    raise UserError(f"{path} cannot be read: line {number}: {error}") from None
                if not line.strip():
                    continue
                try:
                    entry = json_value(line)
                except ValueError as error:
                    problems.add("lines cannot be used", f"line {number}: {error}")
                    continue
                try:
                    expressions.append(_expression(entry))
                except ValueError as error:
                    which = (
                        f" (expr_id {shown(entry['expr_id'])})"
                        if isinstance(entry, dict) and "expr_id" in entry
                        else ""
                    )
                    problems.add("lines cannot be used", f"line {number}: {error}{which}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    problems.raise_if_any(path, 'A line is {"expr_id", "image", "text", "split", "polygons" or "rle" or "no_target"}')
    if not expressions:
        raise UserError(f"{path} has no expressions: every line is one, as JSON")
    return expressions


def write_store(
    expressions_file: str | Path,
    images: Path,
    out: str,
    *,
    name: str,
    skip_bad: bool = False,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    prepared_with: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Writes the expressions and the photos that they name as a data store; ids begin with `name`.

    Raises:
        UserError: lines, photos or masks that cannot be used (the latter two are left out with `skip_bad`).
    """
    writer, problems = DataStoreWriter(out, name), Problems()
    by_image: dict[str, list[Referent]] = {}
    for image, referent in read_expressions(expressions_file):
        by_image.setdefault(image, []).append(referent)
    photos = find_photos(images, by_image, expressions_file, problems)
    return ingest(
        _source_images(by_image, photos, name),
        writer,
        where=expressions_file,
        photos=photos.values(),
        problems=problems,
        sources=[source_record(expressions_file)],
        skip_bad=skip_bad,
        exif_annotated=exif_annotated,
        prepared_with=prepared_with,
        progress=progress,
    )


def _expression(line: Any) -> tuple[str, Referent]:
    if not isinstance(line, dict):
        raise ValueError("it is not a JSON object")
    for key in ("expr_id", "image", "text", "split"):
        if not text(line.get(key), key).strip():
            raise ValueError(f"{key} must be text, not {shown(line[key])}")
    if line["split"] not in SPLITS:
        raise ValueError(f"split {line['split']!r} is none of {', '.join(SPLITS)}")
    no_target = flag(line.get("no_target"), "no_target")
    given = [key for key in ("polygons", "rle") if line.get(key)] + ["no_target"] * no_target
    if len(given) != 1:
        raise ValueError(f"exactly one of polygons, rle and no_target must be given, not {given or 'none'}")
    ref_id, category = line.get("ref_id"), line.get("category")
    if ref_id is None:
        ref_id = line["expr_id"]
    elif not isinstance(ref_id, str):
        ref_id = str(whole_number(ref_id, "ref_id, where it is no text,"))
    return line["image"], Referent(
        ref_id=text(ref_id, "ref_id"),
        split=line["split"],
        expressions=[(line["expr_id"], line["text"])],
        segmentations=[] if no_target else [line[given[0]]],
        ann_ids=[],
        category="" if category is None else text(category, "category"),
        no_target=no_target,
    )


def _source_images(by_image: dict[str, list[Referent]], photos: dict[str, Path], name: str) -> Iterator[SourceImage]:
    for image in sorted(photos):
        referents = by_image[image]
        for referent in referents:
            referent.ref_id = f"{name}/{referent.ref_id}"
            referent.expressions = [(f"{name}/{expr_id}", text) for expr_id, text in referent.expressions]
        yield SourceImage(f"{name}/{image}", photos[image], _annotated_size(referents), referents)


def _annotated_size(referents: list[Referent]) -> Size | None:
    """Run lengths say for which size they were made; polygons do not."""
    for referent in referents:
        for segmentation in referent.segmentations:
            size = segmentation.get("size") if isinstance(segmentation, dict) else None
            if isinstance(size, list) and len(size) == 2:
                try:
                    height, width = (whole_number(side, "size") for side in size)
                except ValueError:  # told with the mask, which cannot be used
                    continue
                if height > 0 and width > 0:
                    return height, width
    return None
