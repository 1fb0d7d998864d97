"""Finds what several objects of a scene have in common, or two of them to name together."""

import dataclasses
import itertools
from collections.abc import Iterator
from random import Random

from mail.data.scenes.expressions import (
    ANCHOR_VISIBLE,
    REDUNDANT_ATTRIBUTE,
    Attributes,
    attributes_of,
    describe,
    meaning_for,
)
from mail.data.scenes.groups import All, Setting, Two, named
from mail.data.scenes.meaning import CLEARLY_VISIBLE, SIDES, Meaning, Place, Relation
from mail.data.scenes.references import eligible

# of two things each is described shortly: "left of" in one of the halves could be of the other as well
_SHORT = {"attribute": 0.6, "absolute": 0.2, "superlative": 0.2}
_SIDES = [Place("left", None), Place("right", None), Place(None, "top"), Place(None, "bottom")]
_CORNERS = [Place(across, down) for across in ("left", "right") for down in ("top", "bottom")]
_PLACES = [*_SIDES, *_SIDES, *_CORNERS, Place("middle", "middle")]  # sides twice: they hold more, and are said more
_ANYTHING = 0.4  # share of the groups by place that are of any kind and colour
_BESIDE = 0.5  # share of them that are beside another object
_PAIRS, _TRIES = 4, 60  # pairs, and groups by place, that are tried in a scene


def two_things(setting: Setting, rng: Random) -> Iterator[Two]:
    """Pairs of objects, each pair in a few words; the first has another of its kind in sight."""
    objects, size = setting.objects, setting.size
    clear = [i for i, item in enumerate(objects) if item.visible >= CLEARLY_VISIBLE and item.kind in setting.kinds]
    pairs = [(a, b) for a, b in itertools.product(eligible(objects, setting.kinds), clear) if a != b]
    rng.shuffle(pairs)
    for pair in pairs[:_PAIRS]:
        for _ in range(3):
            first, second = (meaning_for(target, objects, size, rng, _SHORT) for target in pair)
            if first is not None and second is not None and first.kind and second.kind:
                yield Two(*rng.sample((first, second), 2))


def all_of_a_kind(setting: Setting, rng: Random) -> Iterator[All]:
    """Everything that looks alike in the words of one of the objects, in random order."""
    looks = [words for item in setting.objects for words in attributes_of(item, item.kind)]
    looks += [(None, item.colour, None) for item in setting.objects]
    found = list(dict.fromkeys(looks))
    rng.shuffle(found)
    for words in found:
        group = All(Meaning(*words))
        if not _says_too_much(group, setting, rng):
            yield group


def groups_by_place(setting: Setting, rng: Random) -> Iterator[All]:
    """What is in a part of the picture, or on one side of an object: everything, or everything of some looks."""
    objects, size = setting.objects, setting.size
    anchors = [i for i, item in enumerate(objects) if item.visible >= ANCHOR_VISIBLE]
    named_alone = [item for item in objects if item.kind in setting.kinds]
    for _ in range(_TRIES if named_alone else 0):
        item = rng.choice(named_alone)
        words: Attributes = (None, None, None)
        if rng.random() > _ANYTHING:
            words = rng.choice([*attributes_of(item, item.kind), (None, item.colour, None)])
        place: Place | Relation = rng.choice(_PLACES)
        if anchors and rng.random() < _BESIDE:
            anchor = describe(rng.choice(anchors), objects, size, rng)
            if anchor is None:
                continue
            place = Relation(rng.choice(SIDES), anchor)
        group = All(Meaning(*words, place))
        if not _says_too_much(group, setting, rng):
            yield group


def _says_too_much(group: All, setting: Setting, rng: Random) -> bool:
    """Whether the same objects have fewer words, with the exceptions that people make; a place is always needed."""
    targets = named(group, setting.objects, setting.size)
    if targets is None:
        return False  # and good for nothing anyway
    less = [dataclasses.replace(group.what, **{word: None}) for word in ("kind", "colour", "size", "place")]
    for number, meaning in enumerate(less):
        needed = number == 3 or rng.random() > REDUNDANT_ATTRIBUTE
        if meaning != group.what and needed and named(All(meaning), setting.objects, setting.size) == targets:
            return True
    return False
