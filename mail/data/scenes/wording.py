"""Meanings put into words, the way people type them: short, lower case, seldom twice the same."""

import re
from random import Random

from mail.data.scenes.meaning import Meaning, Place, Rank, Relation

_NOUNS = {
    "circle": ("circle", "circle", "disc"),
    "crescent": ("crescent", "moon"),
    "cross": ("cross", "cross", "plus"),
    "bar": ("bar", "bar", "stick"),
}
_ANY = ("shape", "thing", "object", "one")
_SIZES = {"small": ("small", "small", "little"), "large": ("big", "large")}
SIDE_WORDS = {
    "left": ("left",),
    "right": ("right",),
    "top": ("top", "top", "upper"),
    "bottom": ("bottom", "bottom", "lower"),
}
END_WORDS = {
    "left": ("leftmost", "leftmost", "far left"),
    "right": ("rightmost", "rightmost", "far right"),
    "top": ("topmost", "highest"),
    "bottom": ("lowest", "lowest", "bottommost"),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "smallest", "tiniest"),
}
_AN = re.compile(r"\ba(?= [aeio])")  # "a orange ring"; no word here starts with a vowel letter and a consonant sound
_ORDINALS = ("first", "second", "third", "fourth")
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above", "above", "over"),
    "bottom": ("below", "under"),
    "front": ("in front of",),
    "behind": ("behind",),
    "closest": ("closest to", "closest to", "nearest to"),
}


def phrase(meaning: Meaning, rng: Random) -> str:
    """A noun phrase without an article for the attributes of a meaning ("small red star")."""
    words = []
    if meaning.size is not None:
        words.append(rng.choice(_SIZES[meaning.size]))
    if meaning.colour is not None:
        words.append(meaning.colour)
    words.append(rng.choice(_NOUNS.get(meaning.kind, (meaning.kind,)) if meaning.kind is not None else _ANY))
    return " ".join(words)


def say_meaning(meaning: Meaning, rng: Random) -> str:
    """One sentence for a meaning."""
    noun = phrase(meaning, rng)
    article = "the " if rng.random() < 0.35 else ""
    match meaning.place:
        case Place() as place:
            sentence = _at(place, noun, rng)
        case Rank(start, 1):
            sentence = f"{rng.choice(END_WORDS[start])} {noun}"
        case Rank(start, position):
            the = rng.choice(("the ", "the ", ""))
            ordinal = _ORDINALS[position - 1]
            if start in ("biggest", "smallest"):
                sentence = f"{ordinal} {rng.choice(END_WORDS[start])} {noun}"
            elif rng.random() < 0.2:
                sentence = f"{noun} {ordinal} from {the}{start}"
            else:
                sentence = f"{ordinal} {noun} from {the}{start}"
        case Relation(direction, anchor):
            other = rng.choice(("the ", "the ", "the ", "", "a ")) + phrase(anchor, rng)
            link = rng.choice(("", "", "", "that is "))
            sentence = f"{noun} {link}{rng.choice(RELATION_WORDS[direction])} {other}"
        case _:
            sentence = noun
    return with_articles(article + sentence)


def with_articles(sentence: str) -> str:
    """The sentence with "an" for "a" where it has to be."""
    return _AN.sub("an", sentence)


def _at(place: Place, noun: str, rng: Random) -> str:
    if place.across == place.down == "middle" or "middle" in (place.across, place.down):
        word = rng.choice(("middle", "center"))
        return rng.choice((f"{word} {noun}", f"{noun} in {word}", f"{noun} in the {word}"))
    if place.across and place.down:
        vertical = rng.choice(SIDE_WORDS[place.down])
        where = f"{vertical} {place.across}"
        return rng.choice(
            (f"{where} {noun}", f"{noun} {where}", f"{noun} in the {where}", f"{noun} in {where} corner",
             f"{noun} in the {where} corner", f"{noun} at {where}")
        )  # fmt: skip
    side = place.across or place.down
    assert side is not None
    before = rng.choice(SIDE_WORDS[side])
    on = "on" if place.across else "at"
    return rng.choice(
        (f"{before} {noun}", f"{before} {noun}", f"{noun} {on} {side}", f"{noun} {on} the {side}",
         f"{noun} {on} the {side} side" if place.across else f"{noun} at the {side}", f"{noun} {side}")
    )  # fmt: skip
