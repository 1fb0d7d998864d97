"""Finds things to say about an object: meanings of every category that name this one object and no other."""

import itertools
from collections.abc import Iterator, Sequence
from random import Random

from mail.data.scenes.meaning import (
    CATEGORIES,
    CLEARLY_VISIBLE,
    RELATIONS,
    SIDES,
    Meaning,
    Place,
    Rank,
    Relation,
    SceneObject,
    resolves,
)

# how often each category is tried first; places that few objects have (ordinals) need a larger share to be seen at all
_SHARES = {"attribute": 0.18, "absolute": 0.22, "relative": 0.26, "ordinal": 0.16, "superlative": 0.18}
_REDUNDANT_PLACE = 0.06  # people do add a place that nobody needs ("red star on the left" of a single red star)
_REDUNDANT_ATTRIBUTE = 0.3  # ... and even more often a colour
_ANY_KIND = 0.06  # "the leftmost thing"
_TRIES = 10  # meanings of one category that are tried for one object


def meaning_for(
    target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random, first: str | None = None
) -> Meaning | None:
    """A meaning that names exactly `target` in a scene of `size` (H, W); None if luck finds none.

    `first` is the category to try first; others follow in random order.
    """
    order = [first] if first else []
    order += [c for c in rng.choices(list(_SHARES), list(_SHARES.values()), k=6) if c not in order]
    for category in dict.fromkeys(order):
        for meaning in itertools.islice(_candidates(category, target, objects, size, rng), _TRIES):
            if resolves(meaning, objects, size) == {target} and _is_worded_well(meaning, target, objects, size, rng):
                return meaning
    return None


def _is_worded_well(
    meaning: Meaning, target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random
) -> bool:
    """Whether every part of it is needed, with the exceptions that people make."""

    def enough(shorter: Meaning) -> bool:
        return resolves(shorter, objects, size) == {target}

    if meaning.place is not None and enough(meaning.without_place()) and rng.random() > _REDUNDANT_PLACE:
        return False
    if meaning.kind is not None and enough(meaning.without_attributes()) and rng.random() > _REDUNDANT_ATTRIBUTE:
        return False
    for shorter in (
        Meaning(meaning.kind, None, meaning.size, meaning.place) if meaning.colour else None,
        Meaning(meaning.kind, meaning.colour, None, meaning.place) if meaning.size else None,
    ):
        if shorter is not None and enough(shorter) and rng.random() > _REDUNDANT_ATTRIBUTE:
            return False
    return True


def _attributes(
    item: SceneObject, rng: Random, shuffle: bool = True
) -> list[tuple[str | None, str | None, str | None]]:
    kind = None if rng.random() < _ANY_KIND else item.kind
    choices: list[tuple[str | None, str | None, str | None]] = [(kind, item.colour, None), (kind, None, None)]
    if item.size != "medium":  # "medium" is not a word that people use
        choices += [(kind, None, item.size), (kind, item.colour, item.size)]
    if shuffle:
        rng.shuffle(choices)
    return choices


def _candidates(
    category: str, target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random
) -> Iterator[Meaning]:
    item = objects[target]
    places: list[Place | Rank | Relation | None]
    if category == "attribute":
        places = [None]
    elif category == "absolute":
        places = list(_places(item, size))
    elif category == "superlative":
        places = [Rank(start) for start in (*SIDES, "biggest" if item.size != "small" else "smallest")]
    elif category == "ordinal":
        places = [Rank(side, position) for side in SIDES for position in (2, 3)]
    else:
        places = list(_relations(target, objects, size, rng))
    rng.shuffle(places)
    for place in places:
        for kind, colour, extent in _attributes(item, rng):
            if isinstance(place, Rank) and place.position > 1:
                # nobody counts to the last one, nor two
                meaning = Meaning(kind, colour, extent)
                if len(resolves(meaning, objects, size)) <= place.position:
                    continue
            if isinstance(place, Rank) and place.start in ("biggest", "smallest") and extent:
                continue
            yield Meaning(kind, colour, extent, place)


def _places(item: SceneObject, size: tuple[int, int]) -> Iterator[Place]:
    x, y = item.centre
    across = "left" if x < 0.42 * size[1] else "right" if x > 0.58 * size[1] else None
    down = "top" if y < 0.42 * size[0] else "bottom" if y > 0.58 * size[0] else None
    if across and down:
        yield Place(across, down)
    if across:
        yield Place(across, None)
    if down:
        yield Place(None, down)
    if abs(x - size[1] / 2) < 0.14 * size[1] and abs(y - size[0] / 2) < 0.14 * size[0]:
        yield Place("middle", "middle")


def _relations(target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Iterator[Relation]:
    """Relations to objects that a description without a place names."""
    item = objects[target]
    for index, anchor in enumerate(objects):
        if index == target or anchor.visible < max(0.5, CLEARLY_VISIBLE):
            continue
        for kind, colour, extent in _attributes(anchor, rng):
            description = Meaning(anchor.kind if kind is None and colour is None else kind, colour, extent)
            if resolves(description, objects, size) != {index}:
                continue
            dx, dy = item.centre[0] - anchor.centre[0], item.centre[1] - anchor.centre[1]
            if abs(dx) > abs(dy):
                yield Relation("left" if dx < 0 else "right", description)
            else:
                yield Relation("top" if dy < 0 else "bottom", description)
            if target in anchor.covers or index in item.covers:
                yield Relation("front" if index in item.covers else "behind", description)
            yield Relation("closest", description)
            break


__all__ = ["CATEGORIES", "RELATIONS", "meaning_for"]
