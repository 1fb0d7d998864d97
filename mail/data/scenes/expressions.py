"""Finds things to say about an object: meanings of every category that name this one object and no other."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from mail.data.scenes.meaning import (
    SIDES,
    Meaning,
    Place,
    Rank,
    Relation,
    SceneObject,
    resolves,
)

# how often each category is tried first; places that few objects have (ordinals) need a larger share to be seen at all
SHARES = {"attribute": 0.18, "absolute": 0.24, "relative": 0.25, "ordinal": 0.19, "superlative": 0.14}
_REDUNDANT_PLACE = 0.06  # people do add a place that nobody needs ("red star on the left" of a single red star)
REDUNDANT_ATTRIBUTE = 0.35  # ... and even more often a colour
_ANY_KIND = 0.06  # "the leftmost thing"
_TRIES = 10  # meanings of one category that are tried for one object
ANCHOR_VISIBLE = 0.5  # people relate things to what they see well

Attributes = tuple[str | None, str | None, str | None]  # kind, colour, size; None where it is not said


def meaning_for(
    target: int,
    objects: Sequence[SceneObject],
    size: tuple[int, int],
    rng: Random,
    shares: Mapping[str, float] = SHARES,
) -> Meaning | None:
    """A meaning that names exactly `target` in a scene of `size` (H, W); None if luck finds none.

    Args:
        shares: how often each category is tried first.
    """
    order = dict.fromkeys(rng.choices(list(shares), list(shares.values()), k=6))
    for category in order:
        for meaning in itertools.islice(_candidates(category, target, objects, size, rng), _TRIES):
            if resolves(meaning, objects, size) == {target} and not _says_too_much(meaning, target, objects, size, rng):
                return meaning
    return None


def _says_too_much(
    meaning: Meaning, target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random
) -> bool:
    """Whether words could be left out, with the exceptions that people make; `_candidates` looks after places."""
    shorter = []
    if meaning.kind is not None and meaning.place is not None:
        shorter.append(meaning.without_attributes())
    if meaning.colour is not None:
        shorter.append(dataclasses.replace(meaning, colour=None))
    if meaning.size is not None:
        shorter.append(dataclasses.replace(meaning, size=None))
    return any(rng.random() > REDUNDANT_ATTRIBUTE and resolves(less, objects, size) == {target} for less in shorter)


def attributes_of(item: SceneObject, kind: str | None) -> list[Attributes]:
    """What can be said of an object's looks, as a thing of `kind`."""
    choices: list[Attributes] = [(kind, item.colour, None), (kind, None, None)]
    if item.size != "medium":  # "medium" is not a word that people use
        choices += [(kind, None, item.size), (kind, item.colour, item.size)]
    return choices


def _candidates(
    category: str, target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random
) -> Iterator[Meaning]:
    """Meanings of a category that may name the target, in random order."""
    item = objects[target]
    attributes = attributes_of(item, None if rng.random() < _ANY_KIND else item.kind)
    if category == "attribute":
        rng.shuffle(attributes)
        yield from itertools.starmap(Meaning, attributes)
        return
    named = {words: resolves(Meaning(*words), objects, size) for words in attributes}
    superfluous = rng.random() < _REDUNDANT_PLACE
    pairs = list(itertools.product(PLACES[category](target, objects, size, rng), attributes))
    rng.shuffle(pairs)
    for place, words in pairs:
        if named[words] == {target} and not superfluous:
            continue
        if isinstance(place, Rank):
            # nobody says "second" of two, or counts up to the last one
            if place.position > 1 and len(named[words]) <= place.position:
                continue
            if place.start in ("biggest", "smallest") and words[2] is not None:
                continue
        yield Meaning(*words, place)


def _absolute(target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Iterator[Place]:
    x, y = objects[target].centre
    across = "left" if x < 0.42 * size[1] else "right" if x > 0.58 * size[1] else None
    down = "top" if y < 0.42 * size[0] else "bottom" if y > 0.58 * size[0] else None
    if across and down:
        yield Place(across, down)
    if across:
        yield Place(across, None)
    if down:
        yield Place(None, down)
    if across is None and down is None:
        yield Place("middle", "middle")


def _superlative(target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Iterator[Rank]:
    yield from (Rank(side) for side in SIDES)
    if objects[target].size != "small":
        yield Rank("biggest")
    if objects[target].size != "large":
        yield Rank("smallest")


def _ordinal(target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Iterator[Rank]:
    yield from (Rank(side, position) for side in SIDES for position in (2, 3))
    if objects[target].size == "medium":
        yield Rank("biggest", 2)


def describe(index: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Meaning | None:
    """A description without a place that names an object; None if there is none."""
    item = objects[index]
    descriptions = [Meaning(*words) for words in attributes_of(item, item.kind)]
    rng.shuffle(descriptions)
    return next((d for d in descriptions if resolves(d, objects, size) == {index}), None)


def _relative(target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random) -> Iterator[Relation]:
    """Relations to objects that a description without a place names."""
    item = objects[target]
    for index, anchor in enumerate(objects):
        if index == target or anchor.visible < ANCHOR_VISIBLE:
            continue
        description = describe(index, objects, size, rng)
        if description is None:
            continue
        dx, dy = item.centre[0] - anchor.centre[0], item.centre[1] - anchor.centre[1]
        if abs(dx) > abs(dy):
            yield Relation("left" if dx < 0 else "right", description)
        else:
            yield Relation("top" if dy < 0 else "bottom", description)
        if index in item.covers:
            yield Relation("front", description)
        elif target in anchor.covers:
            yield Relation("behind", description)
        elif rng.random() < 0.5:
            yield Relation("closest", description)


PLACES: dict[str, Callable[..., Iterator[Place | Rank | Relation]]] = {
    "absolute": _absolute,
    "superlative": _superlative,
    "ordinal": _ordinal,
    "relative": _relative,
}
