"""The one rule for formats with an expression a row: JSON Lines, JSON and CSV give the rows.

`image` and `text` are needed, and a target: `polygons`, `rle`, `mask` (a PNG; with `box`, inside of that), `ann_ids`
(of a COCO file), several of them, or `no_target`.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from mail.data.custom.described import Described, given_id, given_names, said, size_of
from mail.data.custom.masks import ListedMask, PngMask, box_of
from mail.data.custom.source import Reading, SourceFile
from mail.data.orientation import Size
from mail.data.typed import flag, shown, text, whole_number

TARGETS = ("polygons", "rle", "mask", "ann_ids")

Row = tuple[str, Any]
"""Where it is, and the object; or the ValueError that says why there is none."""


def of_rows(rows: Iterable[Row], file: SourceFile, reading: Reading, kind: str) -> Iterator[Described]:
    """What the rows of a file say; those that cannot be used are added to the problems, of `kind`."""
    rows = list(rows)
    # a file that says no_target anywhere says it everywhere; else nothing to point at means that there is nothing
    told = any(isinstance(row, dict) and row.get("no_target") is not None for _, row in rows)
    pointed = any(isinstance(row, dict) and any(row.get(key) for key in TARGETS) for _, row in rows)
    for where, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            yield _described(row, file, reading, where, must_say=told or not pointed)
        except ValueError as error:
            which = f" (expr_id {shown(row['expr_id'])})" if isinstance(row, dict) and "expr_id" in row else ""
            reading.problems.add(kind, f"{file.at(where)}: {error}{which}")


def _described(row: Any, file: SourceFile, reading: Reading, where: str, must_say: bool) -> Described:
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    key = reading.text_field or "text"
    expr_id, image, sentence = given_id(row), said(row, "image"), said(row, key)
    names = given_names(row)
    no_target = flag(row.get("no_target"), "no_target")
    pointed = [key for key in TARGETS if row.get(key)]
    if bool(pointed) == no_target and (pointed or must_say):
        raise ValueError(
            "exactly one of polygons, rle and no_target must be given, not "
            f"{[*pointed, *['no_target'] * no_target] or 'none'} (a target may also be a mask, or ann_ids; several are "
            f"united){_nearly(row)}"
        )
    if not pointed and (near := _nearly(row)):
        raise ValueError(f"it has no target{near}")
    if row.get("box") is not None and not row.get("mask"):
        raise ValueError("a box alone is no mask: name the PNG in it as mask")
    parts, size = _parts(row, pointed, file, reading)
    listed = [part for part in parts if isinstance(part, ListedMask)]
    for part in listed:
        part.check_image(image)
    if not names["category"]:
        names["category"] = ", ".join(dict.fromkeys(filter(None, (part.category for part in listed))))
    return Described(
        where=file.at(where),
        images=file.photo_names(image),
        texts=[(expr_id, sentence)],
        parts=parts,
        no_target=not pointed,
        size=size,
        **names,
    )


def _parts(
    row: dict[str, Any], pointed: list[str], file: SourceFile, reading: Reading
) -> tuple[list[Any], Size | None]:
    """The pieces of a target, and the size that they were made for, if they say so."""
    parts: list[Any] = []
    size = None
    if "polygons" in pointed:
        parts.append(row["polygons"])
    if "rle" in pointed:
        parts += _listed(row["rle"])
    if "mask" in pointed:
        box = None if row.get("box") is None else box_of(row["box"])
        names = [file.photo_names(text(name, "mask")) for name in _listed(row["mask"])]
        parts += [PngMask.named(found, reading.folder, box) for found in names]
    for ann_id in _listed(row["ann_ids"]) if "ann_ids" in pointed else ():
        if reading.instances is None:
            raise ValueError("ann_ids are of a COCO file: name it with --instances")
        part = ListedMask(reading.instances, whole_number(ann_id, "an id in ann_ids"))
        parts.append(part)
        size = part.size
    if row.get("height") is not None and row.get("width") is not None:
        size = size_of(row["height"], row["width"])
    return parts, size


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _nearly(row: dict[str, Any]) -> str:
    """A hint where a key looks like that of a target but is not."""
    for key in row:
        near = difflib.get_close_matches(str(key), [*TARGETS, "no_target"], n=1, cutoff=0.75)
        if near and key not in (*TARGETS, "no_target") and row[key]:
            return f"; did you mean {near[0]} by {shown(key)}?"
    return ""
