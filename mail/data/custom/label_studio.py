"""Label Studio's export as JSON: tasks with the photo and, most often, the sentence, and regions that somebody painted.

A sentence is the task's (a text in its data, or a text area beside the photo): its target is all regions of the task,
and a task that is finished without one names nothing. Or it is in a text area of a region: then it is of that alone.
Regions are brush masks, bit masks or polygons. https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from mail import addresses
from mail.data.custom.brush import BrushMask
from mail.data.custom.described import SENTENCES, Described, given_id, given_names, sentences, size_of
from mail.data.custom.masks import PngMask
from mail.data.custom.source import Reading, SourceFile
from mail.data.orientation import Size
from mail.data.typed import flag, number, shown, text
from mail.errors import UserError

IMAGES = ("image", "photo", "picture", "img")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded


def fits(file: SourceFile) -> bool:
    """Whether the file is tasks with data and annotations."""
    try:
        tasks = file.json if isinstance(file.json, list) else [file.json]
    except ValueError:
        return False
    return any(isinstance(t, dict) and isinstance(t.get("data"), dict) and "annotations" in t for t in tasks)


def read(files: Sequence[SourceFile], reading: Reading) -> Iterator[Described]:
    """What the tasks of the files say; those that cannot be used become problems."""
    for file in files:
        try:
            tasks = file.json if isinstance(file.json, list) else [file.json]
        except ValueError as error:
            raise UserError(f"{file.address} cannot be read: {error}") from None
        for place, task in enumerate(tasks):
            named = isinstance(task, dict) and isinstance(task.get("id"), int)
            where = file.at(f"task {task['id'] if named else f'at place {place}'}")
            try:
                yield from described(task, reading, where, file.photo_names)
            except ValueError as error:
                reading.problems.add("tasks cannot be used", f"{where}: {error}")


def described(
    task: Any, reading: Reading, where: str, photo_names: Callable[[str], tuple[str, ...]]
) -> Iterator[Described]:
    """What one task says, with its annotations; ValueError says why nothing can be made of it.

    Args:
        photo_names: what a photo may be called that a task names without an address.
    """
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise ValueError("it is no task with data")
    data = task["data"]
    annotation = _annotation(task.get("annotations"))
    if annotation is None:
        reading.unannotated += 1
        return
    regions, texts = _regions(annotation.get("result"))
    images = _photo_names(data, photo_names)
    size = next((region.size for region in regions.values() if region.size), None)
    names = given_names(data)
    spoken = False
    for identity, region in regions.items():
        said = texts.get(identity, [])
        if said:
            spoken = True
            of_region = names | {"category": names["category"] or region.category}
            yield Described(
                where=f"{where}, region {identity}",
                images=images,
                texts=[(None, sentence) for sentence in said],
                parts=region.parts,
                size=size,
                **of_region,
            )
    if spoken:
        reading.silent += sum(not texts.get(identity) for identity in regions)
        return
    key = reading.text_field or next((key for key in SENTENCES if data.get(key)), None)
    said = sentences(data.get(key), key) if key else []
    said = said or [s for identity, found in texts.items() if identity not in regions for s in found]
    if not said:
        if not regions:
            raise ValueError("it has no sentence: neither its data nor a text area has one")
        reading.silent += len(regions)
        return
    expr_id = given_id(data)
    if expr_id is not None and len(said) > 1:
        raise ValueError(f"it has one expr_id for {len(said)} sentences")
    category = names["category"] or ", ".join(dict.fromkeys(filter(None, (r.category for r in regions.values()))))
    yield Described(
        where=where,
        images=images,
        texts=[(expr_id, sentence) for sentence in said],
        parts=[part for region in regions.values() for part in region.parts],
        no_target=not regions,
        size=size,
        **names | {"category": category},
    )


def _annotation(annotations: Any) -> dict[str, Any] | None:
    """The annotation that counts: the one that there is, or the one that is marked as ground truth."""
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ValueError("its annotations are no list")
    kept = [a for a in annotations if not flag(a.get("was_cancelled"), "was_cancelled")]
    if len(kept) > 1:
        kept = [a for a in kept if flag(a.get("ground_truth"), "ground_truth")]
        if len(kept) != 1:
            raise ValueError(f"it has {len(annotations)} annotations: mark one of them as ground truth")
    return kept[0] if kept else None


class _Region:
    """What the results of one id say together."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.labels: list[str] = []
        self.size: Size | None = None

    @property
    def category(self) -> str:
        return ", ".join(dict.fromkeys(self.labels))


def _regions(results: Any) -> tuple[dict[str, _Region], dict[str, list[str]]]:
    """The painted regions by id, and the sentences in text areas by the id that they share with a region, if any."""
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise ValueError("its result is no list")
    regions: dict[str, _Region] = {}
    texts: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for place, result in enumerate(results):
        kind, value = str(result.get("type")).lower(), result.get("value")
        identity = str(result.get("id", f"at place {place}"))
        if not isinstance(value, dict):
            continue
        if kind == "textarea":
            texts.setdefault(identity, []).extend(sentences(value.get("text"), "the text of a text area"))
            continue
        for key, named in value.items():
            if key.endswith("labels") and isinstance(named, list):
                labels.setdefault(identity, []).extend(text(name, "a label") for name in named)
        shape = {"rle", "imageDataURL", "points"} & value.keys()
        if not shape:
            if {"x", "y"} <= value.keys():
                raise ValueError(f"its region {identity} is a {kind}: a target is painted, or a polygon")
            continue
        region = regions.setdefault(identity, _Region())
        if number(result.get("image_rotation") or 0, "image_rotation"):
            raise ValueError(f"its region {identity} was made on a picture that Label Studio had turned")
        region.size = size_of(result.get("original_height"), result.get("original_width"))
        region.parts.append(_part(value, region.size, identity))
    for identity, region in regions.items():
        region.labels = labels.get(identity, [])
    return regions, texts


def _part(value: dict[str, Any], size: Size, identity: str) -> Any:
    if "rle" in value:
        return BrushMask(value["rle"], size)
    if "imageDataURL" in value:
        return PngMask.inline(text(value["imageDataURL"], "imageDataURL"))
    points = value["points"]
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError(f"the points of its region {identity} are no list of [x, y], but {shown(points)}")
    height, width = size
    return [[number(v, "a point") * side / 100 for p in points for v, side in zip(p, (width, height), strict=True)]]


def _photo_names(data: dict[str, Any], photo_names: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """What the photo may be called in a folder: Label Studio keeps an address of its own making."""
    key = next((key for key in IMAGES if isinstance(data.get(key), str)), None)
    if key is None:
        raise ValueError(f"its data names no photo: {', '.join(IMAGES)} is where it would be")
    given = text(data[key], key)
    if "://" not in given and not given.startswith("/data/"):
        return photo_names(given)
    path, query = addresses.path_and_query(given)
    folders = PurePosixPath(query.get("d", path).lstrip("/")).parts
    if not folders:
        raise ValueError(f"its data names no photo: {shown(given)}")
    if path.startswith("/data/upload/"):
        return folders[-1], _UPLOADED.sub("", folders[-1])
    return tuple("/".join(folders[place:]) for place in range(len(folders)))
