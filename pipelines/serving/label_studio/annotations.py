"""From what Label Studio tells of annotations to corrections.

A webhook's body is `{"action", "project", "task", "annotation"}` (`label_studio/webhooks/models.py`), the last three as
they are exported: what a task says is read by what reads exports, so that a correction means the same both ways.
"""

from dataclasses import dataclass
from typing import Any

from mail import rle
from mail.data.custom.described import Described, Part
from mail.data.custom.label_studio import described
from mail.data.custom.source import Reading
from mail.data.orientation import Size
from mail.data.segmentation import checked_mask
from mail.data.typed import flag
from pipelines.serving.label_studio.labelling import Labelling

ACTIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")


@dataclass(frozen=True)
class Annotated:
    """A task that somebody has annotated, with all that is said about its photo.

    Attributes:
        photo: where it is, as Label Studio writes it. task: its id, None if it has none.
    """

    photo: str
    task: int | None
    things: tuple[Described, ...]


def read(body: Any) -> Annotated | None:
    """The task of a webhook's body; None if it tells of something else, or the task was skipped.

    Raises:
        ValueError: the body has another form, or its regions are none that a mask can be made of.
    """
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise ValueError("the webhook names no action")
    if body["action"] not in ACTIONS:
        return None
    task, annotation, project = (_payload(body, name) for name in ("task", "annotation", "project"))
    if flag(annotation.get("was_cancelled"), "was_cancelled"):
        return None
    labelling = Labelling.read(project.get("label_config"))
    if not isinstance(task.get("data"), dict):
        raise ValueError("it is no task with data")
    photo = labelling.photo_of(task["data"])
    reading = Reading(beside="", text_field=labelling.text_key(task["data"]))
    # the photo is got by its address, not looked for in a folder
    alone = {**task, "annotations": [annotation], "data": {**task["data"], "image": "photo"}}
    things = tuple(described(alone, reading, "the task", lambda name: (name,)))
    return Annotated(photo, task["id"] if isinstance(task.get("id"), int) else None, things)


def _payload(body: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(body.get(name), dict):
        raise ValueError(f"the webhook tells of no {name}: it has to send its payload")
    return body[name]


def mask_of(thing: Described, size: Size) -> rle.RLE | None:
    """The union of what was painted for a sentence, in a photo of `size` (height, width); None if it names nothing.

    Raises:
        ValueError: it was painted on a photo of another size, or is none.
    """
    if thing.no_target:
        return None
    if thing.size is not None and thing.size != size:
        height, width = thing.size
        raise ValueError(f"it was painted on {width} x {height} pixels, and the photo has {size[1]} x {size[0]}")
    parts = [part.segmentation(lambda: size) if isinstance(part, Part) else part for part in thing.parts]
    mask = rle.union([checked_mask(part, *size) for part in parts], size)
    if rle.area(mask) == 0:
        raise ValueError("what was painted has no pixel")
    return mask
