"""What every format of own data gives: one thing in one photo, and what is said about it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mail.data.images import MAX_PIXELS
from mail.data.orientation import Size
from mail.data.schema import SPLITS
from mail.data.typed import shown, text, whole_number

SENTENCES = ("text", "expression", "sentence", "caption", "description", "phrase", "referring_expression")


@runtime_checkable
class Part(Protocol):
    """A piece of a target that has to be fetched or unpacked first."""

    def segmentation(self, photo_size: Callable[[], Size]) -> Any:
        """COCO's polygons or run lengths; ValueError says why there are none.

        Args:
            photo_size: asks the photo for its (height, width), as a viewer shows it.
        """


@dataclass(slots=True, kw_only=True)
class Described:
    """One thing in one photo, with all that is said about it, as a file has it: nothing is looked up yet.

    Attributes:
        where: the line or entry, for messages.
        images: names that the photo may have in its folder; the first that there is counts.
        texts: (expr_id, sentence); an id is None where the file gives none.
        parts: COCO segmentations, or `Part`s; the target is their union.
        split, ref_id: None where the file gives none.
        size: (height, width) that the parts were made for, where the file says so.
    """

    where: str
    images: Sequence[str]
    texts: list[tuple[str | None, str]]
    parts: list[Any] = field(default_factory=list)
    no_target: bool = False
    split: str | None = None
    ref_id: str | None = None
    category: str = ""
    size: Size | None = None


def given_names(entry: dict[str, Any]) -> dict[str, Any]:
    """`split`, `ref_id` and `category` of an entry, ready for `Described`; ValueError where one is of another form."""
    split, ref_id, category = (entry.get(key) for key in ("split", "ref_id", "category"))
    if split is not None and text(split, "split") not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if ref_id is not None and not isinstance(ref_id, str):
        ref_id = str(whole_number(ref_id, "ref_id, where it is no text,"))
    return {
        "split": split,
        "ref_id": None if ref_id is None else text(ref_id, "ref_id"),
        "category": "" if category is None else text(category, "category"),
    }


def given_id(entry: dict[str, Any]) -> str | None:
    """The `expr_id` of an entry, None where it has none."""
    return None if entry.get("expr_id") is None else said(entry, "expr_id")


def said(entry: dict[str, Any], key: str) -> str:
    """A text that must be there and not blank."""
    if not text(entry.get(key), key).strip():
        raise ValueError(f"{key} must be text, not {shown(entry[key])}")
    return entry[key]


def sentences(values: Any, what: str) -> list[str]:
    """The sentences in a text field of a labelling tool: one a line, or a list of such texts."""
    found = [
        line.strip() for value in (values if isinstance(values, list) else [values]) for line in _lines(value, what)
    ]
    return [*dict.fromkeys(filter(None, found))]


def _lines(value: Any, what: str) -> Iterable[str]:
    return () if value is None else text(value, what).splitlines()


def size_of(height: Any, width: Any) -> Size:
    """The size that a file declares; ValueError if it is none."""
    found = whole_number(height, "a height"), whole_number(width, "a width")
    if min(found) < 1 or found[0] * found[1] > MAX_PIXELS:
        raise ValueError(f"{found[0]} x {found[1]} pixels is no size of an image (at most {MAX_PIXELS:,})")
    return found
