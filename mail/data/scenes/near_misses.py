"""Finds things to say of a scene that name nothing in it: what is there, but for one word."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from random import Random

from mail.data.scenes.expressions import ANCHOR_VISIBLE, PLACES, describe
from mail.data.scenes.groups import All, Nothing, Setting, possible
from mail.data.scenes.meaning import CLEARLY_VISIBLE, SIDES, Meaning, Place, Rank, Relation, fit, resolves

# how often each word is tried to be the wrong one; the last ones often are true of something else, so succeed less
_SHARES = {"colour": 0.14, "kind": 0.16, "size": 0.13, "place": 0.26, "relation": 0.26, "rank": 0.05}
_FROM_THE_SCENE = 0.8  # share of the wrong kinds and colours that something else in the scene has
_PLACED = 0.75  # share of the wrong kinds and colours with the place of what is meant: as many as true sentences have
_BARE = 0.6  # share of the wrong kinds in a place that have no colour: many true sentences have none
_PLURAL = 0.3  # share of the wrong kinds, colours and sizes without a place that are said of several
_TRIES = 24
_LAST_COUNTED = 3  # "fourth" is not said of what is there either
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def near_misses(setting: Setting, rng: Random) -> Iterator[Nothing]:
    """Meanings that are untrue by one word, as far as `groups.named` does not find them true of something else."""
    clear = [i for i, item in enumerate(setting.objects) if item.visible >= CLEARLY_VISIBLE]
    for _ in range(_TRIES if clear else 0):
        index, (wrong,) = rng.choice(clear), rng.choices(list(_SHARES), list(_SHARES.values()))
        meaning = _MISSES[wrong](index, setting, rng)
        if meaning is None or meaning.kind not in setting.kinds:
            continue
        if wrong in ("colour", "kind") and rng.random() < _PLACED:
            meaning = _placed(meaning, index, setting, rng)
            if wrong == "kind" and meaning.place is not None and rng.random() < _BARE:
                meaning = dataclasses.replace(meaning, colour=None)
        if _beside_itself(meaning, setting):
            continue
        plural = meaning.place is None and rng.random() < _PLURAL
        yield Nothing(All(meaning) if plural else meaning)


def _beside_itself(meaning: Meaning, setting: Setting) -> bool:
    """ "The star left of the star", where there is one star: nobody says that."""
    if not isinstance(meaning.place, Relation):
        return False
    there = possible(dataclasses.replace(meaning, place=None), setting.objects, setting.size)
    return there == resolves(meaning.place.anchor, setting.objects, setting.size)


def _other(there: Sequence[str], known: Sequence[str], own: str, rng: Random) -> str:
    """Another word than an object's own: one that suits something else in the scene, or any other that is known."""
    near = sorted({word for word in there if word != own})
    return rng.choice(near if near and rng.random() < _FROM_THE_SCENE else [word for word in known if word != own])


def _colour(index: int, setting: Setting, rng: Random) -> Meaning:
    item = setting.objects[index]
    colour = _other([o.colour for o in setting.objects], setting.colours, item.colour, rng)
    return Meaning(item.kind, colour, rng.choice((None, None, None, _size_of(index, setting))))


def _kind(index: int, setting: Setting, rng: Random) -> Meaning:
    item = setting.objects[index]
    kinds = [o.kind for o in setting.objects if o.kind in setting.kinds]
    kind = _other(kinds, setting.kinds, item.kind, rng)
    return Meaning(kind, item.colour, rng.choice((None, None, None, _size_of(index, setting))))


def _size(index: int, setting: Setting, rng: Random) -> Meaning | None:
    item = setting.objects[index]
    if item.size == "medium":
        return None
    wrong = "small" if item.size == "large" else "large"
    return Meaning(item.kind, rng.choice((item.colour, item.colour, None)), wrong)


def _place(index: int, setting: Setting, rng: Random) -> Meaning | None:
    """The other side than where it is; in both directions, at least one is wrong."""
    meaning = _placed(_looks(index, setting, rng), index, setting, rng, ("absolute",))
    match meaning.place:
        case Place(across, down) if across != "middle":
            turned = rng.choice([word for word in (across, down) if word is not None])
            across, down = (_OPPOSITE[word] if word == turned else word for word in (across, down))
            return dataclasses.replace(meaning, place=Place(across, down))
    return None


def _relation(index: int, setting: Setting, rng: Random) -> Meaning | None:
    """Beside another object, where it is on another side of it, or below it for above it in the heap."""
    objects = setting.objects
    anchors = [i for i, other in enumerate(objects) if i != index and other.visible >= ANCHOR_VISIBLE]
    if not anchors:
        return None
    anchor = rng.choice(anchors)
    description = describe(anchor, objects, setting.size, rng)
    if description is None:
        return None
    directions = list(SIDES)
    for true, wrong in (("front", "behind"), ("behind", "front")):
        if index in fit(Meaning(place=Relation(true, description)), objects, setting.size)[0]:
            directions.append(wrong)
    return dataclasses.replace(_looks(index, setting, rng), place=Relation(rng.choice(directions), description))


def _rank(index: int, setting: Setting, rng: Random) -> Meaning | None:
    """The third of two."""
    meaning = _looks(index, setting, rng)
    alike = sum(meaning.kind == o.kind and meaning.colour in (None, o.colour) for o in setting.objects)
    if alike >= _LAST_COUNTED:
        return None
    return dataclasses.replace(meaning, place=Rank(rng.choice(SIDES), alike + 1))


_MISSES: dict[str, Callable[[int, Setting, Random], Meaning | None]] = {
    "colour": _colour,
    "kind": _kind,
    "size": _size,
    "place": _place,
    "relation": _relation,
    "rank": _rank,
}


def _looks(index: int, setting: Setting, rng: Random) -> Meaning:
    item = setting.objects[index]
    return Meaning(item.kind, rng.choice((item.colour, None, None)))


def _size_of(index: int, setting: Setting) -> str | None:
    size = setting.objects[index].size
    return None if size == "medium" else size


def _placed(
    meaning: Meaning,
    index: int,
    setting: Setting,
    rng: Random,
    categories: Sequence[str] = ("absolute", "superlative", "relative"),
) -> Meaning:
    """A meaning with a place of an object, if one is found; ranks by size say enough about size."""
    places = list(PLACES[rng.choice(categories)](index, setting.objects, setting.size, rng))
    if meaning.size is not None:
        places = [place for place in places if not isinstance(place, Rank)]
    return dataclasses.replace(meaning, place=rng.choice(places)) if places else meaning
