"""LabelMe's files, one a photo: shapes with a label and, in newer versions, a description.

A shape's description is its sentence, one a line, and its label the category; where no shape in any of the files has a
description, the label is the sentence. Shapes of one group are one thing. A shape is a polygon or a mask.
https://github.com/wkentaro/labelme
"""

from collections.abc import Iterator, Sequence
from typing import Any

from mail.data.custom.described import Described, given_id, given_names, sentences, size_of
from mail.data.custom.masks import PngMask
from mail.data.custom.source import Reading, SourceFile
from mail.data.orientation import Size
from mail.data.typed import number, shown, text
from mail.errors import UserError


def fits(file: SourceFile) -> bool:
    """Whether the file has shapes on an image."""
    try:
        return isinstance(file.json, dict) and {"shapes", "imagePath"} <= file.json.keys()
    except ValueError:
        return False


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """What the shapes of all files say; those that cannot be used become problems."""
    field = reading.text_field or ("description" if any(map(_has_description, files)) else "label")
    for file in files:
        try:
            yield from _photo(file, field, reading)
        except ValueError as error:
            reading.problems.add("files cannot be used", f"{file.name}: {error}")


def _has_description(file: SourceFile) -> bool:
    try:
        return any(isinstance(s, dict) and s.get("description") for s in file.json.get("shapes") or ())
    except (ValueError, AttributeError, TypeError):  # told when it is read
        return False


def _photo(file: SourceFile, field: str, reading: Reading) -> Iterator[Described]:
    try:
        page = file.json
    except ValueError as error:
        raise UserError(f"{file.address} cannot be read: {error}") from None
    if not isinstance(page, dict) or not isinstance(page.get("shapes"), list):
        raise ValueError("it has no list of shapes")
    images = file.photo_names(text(page.get("imagePath"), "imagePath").replace("\\", "/"))
    size = size_of(page.get("imageHeight"), page.get("imageWidth"))
    groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for place, shape in enumerate(page["shapes"]):
        if not isinstance(shape, dict):
            raise ValueError(f"shape {place} is no object but {shown(shape)}")
        group = shape.get("group_id")
        groups.setdefault(("alone", place) if group is None else ("group", str(group)), []).append((place, shape))
    for shapes in groups.values():
        where = f"{file.name}, shape {shapes[0][0]}"
        try:
            said = list(dict.fromkeys(s for _, shape in shapes for s in sentences(shape.get(field), field)))
            if not said:
                reading.silent += 1
                continue
            first = next(shape for _, shape in shapes if sentences(shape.get(field), field))
            names, expr_id = given_names(first), given_id(first)
            if expr_id is not None and len(said) > 1:
                raise ValueError(f"it has one expr_id for {len(said)} sentences")
            labels = [text(shape.get("label"), "label") for _, shape in shapes] if field != "label" else []
            yield Described(
                where=where,
                images=images,
                texts=[(expr_id, sentence) for sentence in said],
                parts=[_part(shape, size) for _, shape in shapes],
                size=size,
                **names | {"category": names["category"] or ", ".join(dict.fromkeys(labels))},
            )
        except ValueError as error:
            reading.problems.add("shapes cannot be used", f"{where}: {error}")


def _part(shape: dict[str, Any], size: Size) -> Any:
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError(f"its points are no list of [x, y], but {shown(points)}")
    flat = [number(v, "a point") for p in points for v in p]
    if kind == "polygon":
        return [flat]
    if kind == "mask" and len(flat) == 4:
        left, top, right, bottom = map(round, flat)  # both corners belong to it
        box = (float(left), float(top), right - left + 1.0, bottom - top + 1.0)
        return PngMask.inline(text(shape.get("mask"), "mask"), box, size)
    raise ValueError(f"it is a {kind}: a target is a polygon or a mask")
