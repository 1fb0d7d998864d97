"""Meanings of several objects or none put into words, as `wording` does it for one object."""

import dataclasses
from random import Random

from mail.data.scenes.groups import All, Nothing, Said, Two
from mail.data.scenes.meaning import Meaning, Place, Rank, Relation
from mail.data.scenes.wording import END_WORDS, RELATION_WORDS, SIDE_WORDS, phrase, say_meaning, with_articles

_PLURALS = {"cross": "crosses", "plus": "pluses", "leaf": "leaves"}
_NUMBERS = ("none", "one", "two", "three", "four", "five")
_MIDDLE = ("middle", "middle", "center")
_EVERYTHING = 0.55  # "everything on the left"; else "all the things on the left"
_EACH = 0.2  # share of the groups that are said in the singular: "every red star"
_COUNTED = 0.3  # share of the others that are said with their number: "both red stars"
_BEFORE = 0.15  # "all the left stars"


def say(said: Said, count: int, rng: Random) -> str:
    """One sentence for a meaning that names `count` objects."""
    match said:
        case Two(first, second):
            return _two(first, second, rng)
        case All(what):
            return with_articles(_all(what, count, rng))
        case Nothing(what):
            return say(what, 0, rng)
        case Meaning():
            return say_meaning(said, rng)


def _two(first: Meaning, second: Meaning, rng: Random) -> str:
    one, other = _short(first, rng, behind=True), _short(second, rng, behind=False)
    plain = all(m.place is None and m.size is None and m.colour is not None for m in (first, second))
    if plain and first.kind == second.kind and rng.random() < 0.6:
        return rng.choice((f"the {first.colour} and the {other}", f"the {one} and the {second.colour} one"))
    if plain and rng.random() < 0.4:  # "small" or "left" could be said of both
        return f"{one} and {other}"
    the = rng.choice(("the ", "the ", "the ", "both the "))
    between = rng.choice(("and",) * 6 + (("as well as", "together with") if the == "the " else ()))
    return f"{the}{one} {between} the {other}"


def _short(meaning: Meaning, rng: Random, behind: bool) -> str:
    """One of two things, its place in front of it or, if that may be, `behind`."""
    noun = phrase(meaning, rng)
    match meaning.place:
        case Rank(start):
            return f"{rng.choice(END_WORDS[start])} {noun}"
        case Place() as place if behind and rng.random() < 0.5:
            return f"{noun} {_where(place, rng)}"
        case Place() as place:
            return f"{_side(place, rng)} {noun}"
    return noun


def _all(what: Meaning, count: int, rng: Random) -> str:
    looks = dataclasses.replace(what, place=None)
    anything, one_by_one = looks == Meaning(), rng.random() < _EACH
    if anything and (one_by_one or rng.random() < _EVERYTHING):
        everything = rng.choice(("everything", "everything", "everything", "everything that is", "all that is", "all"))
        return f"{everything} {_behind(what, rng)}"
    noun = rng.choice(("shape", "thing", "object")) if anything else phrase(looks, rng)
    after = ""
    if isinstance(what.place, Place) and looks.kind is not None and not one_by_one and rng.random() < _BEFORE:
        noun = f"{_side(what.place, rng)} {noun}"
    elif what.place is not None:
        link = f"that {'is' if one_by_one else 'are'} "
        after = " " + _behind(what, rng, rng.choice(("", "", "", "", link)))
    if one_by_one:
        return f"{rng.choice(('every', 'every', 'every', 'each'))} {noun}{after}"
    *adjectives, last = noun.split()
    plural = " ".join([*adjectives, _PLURALS.get(last, last + "s")])
    if 2 <= count < len(_NUMBERS) and rng.random() < _COUNTED:
        number = _NUMBERS[count]
        forms = [f"the {number}", f"the {number}", number]
        forms += ["both", "both", "both", "both the"] if count == 2 else [f"all {number}"]
        return f"{rng.choice(forms)} {plural}{after}"
    bare = ("", "") if looks.colour or looks.size else ()
    start = rng.choice(("all ", "all ", "all ", "all the ", "all the ", "all of the ", "the ", "the ", *bare))
    return f"{start}{plural}{after}"


def _behind(what: Meaning, rng: Random, link: str = "") -> str:
    match what.place:
        case Place() as place:
            return link + _where(place, rng)
        case Relation(direction, anchor):
            other = rng.choice(("the ", "the ", "the ", "", "a ")) + phrase(anchor, rng)
            return f"{link}{rng.choice(RELATION_WORDS[direction])} {other}"
    raise ValueError(f"no group is at {what.place}")


def _side(place: Place, rng: Random) -> str:
    """A place in front of a noun: "top left"."""
    if "middle" in (place.across, place.down):
        return rng.choice(_MIDDLE)
    down = rng.choice(SIDE_WORDS[place.down]) if place.down else ""
    return f"{down} {place.across or ''}".strip()


def _where(place: Place, rng: Random) -> str:
    """A place behind a noun: "on the left", "in the top left corner"."""
    side = _side(place, rng)
    if "middle" in (place.across, place.down):
        return f"in the {side}"
    if place.across and place.down:
        return rng.choice((f"in the {side}", f"in the {side} corner", f"in the {side} corner", f"at the {side}"))
    if place.across:
        return rng.choice(
            (f"on the {side}", f"on the {side}", f"on {side}", f"on the {side} side", f"in the {side} half")
        )
    at = place.down
    return rng.choice((f"at the {at}", f"at the {at}", f"at {at}", f"in the {side} half"))
