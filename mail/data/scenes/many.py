"""References as in gRefCOCO: about half of the sentences name one object, the others several, or nothing.

The scenes are those of any other data set; only what is said about them differs.
"""

from collections.abc import Callable, Iterator
from random import Random

from mail.data.scenes.group_expressions import all_of_a_kind, groups_by_place, two_things
from mail.data.scenes.group_wording import say
from mail.data.scenes.groups import Nothing, Said, Setting, named
from mail.data.scenes.near_misses import near_misses
from mail.data.scenes.references import Reference, Sentence, eligible, refer_to_one

# How often each is tried first. Half of what is said names one object, as in any other data set, so that what is
# learned of one helps with several; a sixth names nothing (gRefCOCO: 12 %), so that N-acc of a small split is of enough
# sentences. Groups succeed less often than single objects, and are said in fewer ways: of 5,551 sentences of 1,000
# scenes 49 % name one, 12 % two, 13 % all of a kind, 10 % a group by its place, 17 % nothing.
SHARES = {"one": 0.5, "two": 0.115, "kind": 0.13, "group": 0.135, "nothing": 0.13}

_CANDIDATES: dict[str, Callable[[Setting, Random], Iterator[Said]]] = {
    "two": two_things,
    "kind": all_of_a_kind,
    "group": groups_by_place,
    "nothing": near_misses,
}


def refer_to_many(setting: Setting, rng: Random, max_refs: int, max_sentences: int) -> list[Reference]:
    """Up to `max_refs` references: to one object, to several, or to none, with up to `max_sentences` sentences each."""
    references: list[Reference] = []
    for _ in range(max_refs):
        for sort in dict.fromkeys(rng.choices(list(SHARES), list(SHARES.values()), k=8)):
            reference = _refer(sort, setting, references, rng, max_sentences)
            if reference is not None:
                references.append(reference)
                break
    return references


def _refer(sort: str, setting: Setting, before: list[Reference], rng: Random, max_sentences: int) -> Reference | None:
    """A reference to what none `before` refers to; None if luck finds none."""
    taken = {reference.targets for reference in before if reference.targets}
    if sort == "one":
        left = [i for i in eligible(setting.objects, setting.kinds) if (i,) not in taken]
        return refer_to_one(rng.choice(left), setting.objects, setting.size, rng, max_sentences) if left else None
    texts = {sentence.text for reference in before for sentence in reference.sentences}
    wanted = rng.randint(1, max_sentences)
    targets: tuple[int, ...] | None = None
    said: dict[str, Sentence] = {}
    for meaning in _CANDIDATES[sort](setting, rng):
        indices = named(meaning, setting.objects, setting.size)
        if indices is None or not _worth_saying(indices, setting):
            continue
        found = tuple(sorted(indices))
        if found in taken or targets not in (None, found):
            continue
        targets = found
        for _ in range(1 if isinstance(meaning, Nothing) else rng.randint(1, 3)):  # the same in other words
            text = say(meaning, len(targets), rng)
            if text not in texts and len(said) < wanted:
                said.setdefault(text, Sentence(text=text, meaning=meaning))
        if len(said) == wanted:
            break
    return Reference(targets=targets, sentences=list(said.values())) if said and targets is not None else None


def _worth_saying(targets: set[int], setting: Setting) -> bool:
    """Of the kinds that the split refers to, and not all that there is."""
    kinds = {setting.objects[i].kind for i in targets}
    return kinds <= set(setting.kinds) and len(targets) < len(setting.objects)
