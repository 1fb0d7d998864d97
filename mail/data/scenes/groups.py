"""Meanings of expressions that name several objects or none, and what they name beyond doubt.

They are built from the `Meaning`s of single objects. Where one object is meant, what fits best is named; "all" and
"nothing" have no such help, so they are judged more strictly than `meaning.fit` does: a medium star may be one of "the
small stars", a ring may be called a circle, and what is far above a ring and a little to its left may count as left of
it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from mail.data.scenes.meaning import CLEARLY_VISIBLE, SIDES, Meaning, Place, Rank, Relation, SceneObject, fit, resolves

_ALSO_CALLED: Mapping[str, tuple[str, ...]] = {"circle": ("ring",)}  # kind -> kinds that some would call so too


@dataclasses.dataclass(frozen=True, slots=True)
class Two:
    """Two objects, each by its own description."""

    first: Meaning
    second: Meaning

    @property
    def category(self) -> str:
        return "two"


@dataclasses.dataclass(frozen=True, slots=True)
class All:
    """Every object that a description fits: of a kind, or in a place (a `Place`, or a `Relation` to a side)."""

    what: Meaning

    @property
    def category(self) -> str:
        return "kind" if self.what.place is None else "group"


@dataclasses.dataclass(frozen=True, slots=True)
class Nothing:
    """An object, or objects, that could be in the scene and are not."""

    what: Meaning | All

    @property
    def category(self) -> str:
        return "nothing"


Said = Meaning | Two | All | Nothing
SEVERAL_OR_NONE = ("two", "kind", "group", "nothing")
"""Categories of the expressions that do not name one object; those that do have `meaning.CATEGORIES`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What sentences of a scene can be about.

    Attributes:
        size: of the scene, (H, W).
        kinds: that the scene's split refers to.
        colours: that objects of the scene's domain may have.
    """

    objects: Sequence[SceneObject]
    size: tuple[int, int]
    kinds: Sequence[str]
    colours: Sequence[str]


def named(said: Said, objects: Sequence[SceneObject], size: tuple[int, int]) -> set[int] | None:
    """Indices of the objects that an expression surely names in a scene of `size` (H, W); None if anybody could doubt.

    One of a `Meaning`, two of `Two`, at least two of `All`, none of `Nothing`.
    """
    match said:
        case Two(first, second):
            found = [resolves(meaning, objects, size) for meaning in (first, second)]
            both = found[0] | found[1]
            return both if len(found[0]) == len(found[1]) == 1 and len(both) == 2 else None
        case All(what):
            sure, _ = fit(what, objects, size)
            return sure if len(sure) > 1 and sure == possible(what, objects, size) else None
        case Nothing(what):
            meaning = what.what if isinstance(what, All) else what
            if possible(meaning, objects, size):
                return None
            # of two red stars on the right one is the left one
            several = len(_described(meaning, objects)) > 1 and isinstance(meaning.place, Place)
            return None if several else set()
        case Meaning():
            found_one = resolves(said, objects, size)
            return found_one if len(found_one) == 1 else None


def possible(meaning: Meaning, objects: Sequence[SceneObject], size: tuple[int, int]) -> set[int]:
    """Indices of the objects that anybody might count among those that fit."""
    described = _described(meaning, objects)
    match meaning.place:
        case None:
            return described
        case Rank():
            doubtful = described - fit(dataclasses.replace(meaning, place=None), objects, size)[1]
            return fit(meaning, objects, size)[1] | doubtful
        case Relation("closest"):  # one always is
            return described
        case Relation(direction, anchor) if direction in SIDES and len(at := resolves(anchor, objects, size)) == 1:
            return {i for i in described if _beyond(direction, objects[i], objects[next(iter(at))], size)}
    return described & fit(Meaning(place=meaning.place), objects, size)[1]


def _described(meaning: Meaning, objects: Sequence[SceneObject]) -> set[int]:
    """What the attributes may mean, wherever it is; of a sliver only the colour can be told."""

    def may_be(item: SceneObject) -> bool:
        of_kind = meaning.kind in (None, item.kind) or item.kind in _ALSO_CALLED.get(meaning.kind or "", ())
        of_size = meaning.size in (None, item.size) or item.size == "medium"
        return meaning.colour in (None, item.colour) and (item.visible < CLEARLY_VISIBLE or (of_kind and of_size))

    return {index for index, item in enumerate(objects) if may_be(item)}


def _beyond(direction: str, item: SceneObject, anchor: SceneObject, size: tuple[int, int]) -> bool:
    """Whether an object is on a side of another one, however far off to the other sides."""
    axis, sign = (0 if direction in ("left", "right") else 1), (-1 if direction in ("left", "top") else 1)
    return sign * (item.centre[axis] - anchor.centre[axis]) > 0.03 * min(size)
