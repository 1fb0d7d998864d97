"""From Label Studio's request for predictions to photos and sentences.

The request is that of `label_studio/ml/api_connector.py`: `{"tasks": [...], "project": "1.1700000000", "label_config":
"<View>...", "params": {"login", "password", "context"}}`. `context` is there while somebody works on a task: it holds
the regions that were just made, a sentence in a text area among them.
"""

from dataclasses import dataclass
from typing import Any

from mail.data.custom.described import sentences
from pipelines.serving.label_studio.labelling import Labelling


@dataclass(frozen=True)
class Asked:
    """What one task asks: the sentences about its photo, none if it has no sentence yet.

    Attributes:
        photo: where it is, as Label Studio writes it. task: its id, None if it has none.
        trouble: why the task cannot be answered; "" where it can.
    """

    photo: str = ""
    texts: tuple[str, ...] = ()
    task: int | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Asking:
    """A whole request: `interactive` where somebody waits in front of the task."""

    labelling: Labelling
    tasks: tuple[Asked, ...]
    interactive: bool

    @classmethod
    def read(cls, body: Any) -> "Asking":
        """Raises ValueError where the body is no request for predictions."""
        if not isinstance(body, dict) or not isinstance(body.get("tasks"), list):
            raise ValueError("there are no tasks")
        labelling = Labelling.read(body.get("label_config"))
        params = body.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        typed = _typed(context)
        return cls(labelling, tuple(_asked(task, labelling, typed) for task in body["tasks"]), bool(context))


def _asked(task: Any, labelling: Labelling, typed: list[str]) -> Asked:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        return Asked(trouble="it is no task with data")
    identity = task["id"] if isinstance(task.get("id"), int) else None
    try:
        texts = typed or labelling.texts(task["data"])
        return Asked(labelling.photo_of(task["data"]), tuple(texts), identity)
    except ValueError as error:
        return Asked(task=identity, trouble=str(error))


def _typed(context: Any) -> list[str]:
    """The sentences that were typed into a text area just now."""
    results = context.get("result") if isinstance(context, dict) else None
    found: list[str] = []
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and str(result.get("type")).lower() == "textarea":
            value = result.get("value")
            found += sentences(value.get("text"), "the text of a text area") if isinstance(value, dict) else []
    return found
