"""Which objects of a scene are referred to, one at a time, and by which sentences."""

import dataclasses
from collections.abc import Sequence
from random import Random

from mail.data.scenes.expressions import meaning_for
from mail.data.scenes.groups import Said
from mail.data.scenes.meaning import CLEARLY_VISIBLE, SceneObject
from mail.data.scenes.wording import say_meaning


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """One referring expression."""

    text: str
    meaning: Said


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What is referred to: an object, or several, or nothing."""

    targets: tuple[int, ...]
    """Indices into the scene's objects, ascending."""
    sentences: list[Sentence]

    @property
    def target(self) -> int:
        """The only one, where it is one."""
        (target,) = self.targets
        return target


def eligible(objects: Sequence[SceneObject], kinds: Sequence[str]) -> list[int]:
    """The objects that may be named alone: of one of `kinds`, clearly visible, with another of their kind in sight."""
    clear = [i for i, item in enumerate(objects) if item.visible >= CLEARLY_VISIBLE]
    there = [objects[i].kind for i in clear]
    return [i for i in clear if objects[i].kind in kinds and there.count(objects[i].kind) > 1]


def refer_to_one_each(
    objects: Sequence[SceneObject],
    size: tuple[int, int],
    kinds: Sequence[str],
    rng: Random,
    max_refs: int,
    max_sentences: int,
) -> list[Reference]:
    """Up to `max_refs` objects, of one of `kinds`, and up to `max_sentences` sentences about each.

    Args:
        size: of the scene, (H, W).
    """
    candidates = eligible(objects, kinds)
    rng.shuffle(candidates)
    references: list[Reference] = []
    for target in candidates:
        if len(references) == max_refs:
            break
        if (reference := refer_to_one(target, objects, size, rng, max_sentences)) is not None:
            references.append(reference)
    return references


def refer_to_one(
    target: int, objects: Sequence[SceneObject], size: tuple[int, int], rng: Random, max_sentences: int
) -> Reference | None:
    """An object and what is said about it; None if luck finds nothing."""
    wanted = rng.choice(range(1, max_sentences + 1))
    said: dict[str, Sentence] = {}
    for _ in range(wanted):
        meaning = meaning_for(target, objects, size, rng)
        if meaning is not None:
            text = say_meaning(meaning, rng)
            said.setdefault(text, Sentence(text=text, meaning=meaning))
    return Reference(targets=(target,), sentences=list(said.values())) if said else None
