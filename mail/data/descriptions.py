"""What an object in a photo can be called so that it alone is meant: by kind, size, place, counting, relation.

An expression names an object of its category by being the only one, by size, by place, by counting, or by its relation
to the only object of another category. Every description is judged for every object of the category: it fits, it does
not, or it is unclear (two boxes nearly level, sizes nearly equal). It is used only if it fits the referent and fits no
other, not even unclearly. Geometry is that of the objects' boxes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

LEVEL = 0.05  # of the image's side: nearer than this, one is not clearly left of (above) the other
SAME_SIZE = 1.5  # areas within this factor are not clearly different
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}

Judgement = bool | None  # None: unclear
Fits = list[Judgement]


@dataclass(frozen=True, slots=True)
class Thing:
    """One annotated object: its box in pixels and its area."""

    ann_id: int
    category: str
    left: float
    top: float
    right: float
    bottom: float
    area: float

    @property
    def x(self) -> float:
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass(frozen=True, slots=True)
class Description:
    """A way to name one of `peers`: what kind it is, whom it fits, and how people would word it."""

    kind: str  # "category", "size", "place", "ordinal", "relation"
    fits: Fits  # one judgement a peer
    wordings: tuple[str, ...]

    def names(self, peer: int) -> bool:
        """Whether it fits this peer and nobody else could be meant."""
        return all(fit is (number == peer) for number, fit in enumerate(self.fits))


def describe(peers: Sequence[Thing], others: Sequence[Thing], height: int, width: int) -> Iterator[Description]:
    """All descriptions that can be made of things of one category.

    Args:
        peers: every object of that category in the image.
        others: objects of other categories, each the only one of its own, to relate to.
    """
    name = peers[0].category
    if len(peers) == 1:
        yield Description("category", [True], (name, f"the {name}", f"the only {name}"))
    else:
        yield from _by_size(name, peers)
        yield from _by_place(name, peers, height, width)
        yield from _by_rank(name, peers, height, width)
    for anchor in others:
        yield from _by_relation(name, peers, anchor, height, width)


def _extreme(values: Sequence[float], margin: Callable[[float], float]) -> Fits:
    """Whom "the smallest value" fits: nobody clearly, if several lie within `margin(smallest)` of each other."""
    smallest = min(values)
    near = [value <= margin(smallest) for value in values]
    return [(True if sum(near) == 1 else None) if close else False for close in near]


def _by_size(name: str, peers: Sequence[Thing]) -> Iterator[Description]:
    areas = [thing.area for thing in peers]
    largest = _extreme([-a for a in areas], lambda least: least / SAME_SIZE)
    smallest = _extreme(areas, lambda least: least * SAME_SIZE)
    big, large, small = ("bigger", "larger", "smaller") if len(peers) == 2 else ("biggest", "largest", "smallest")
    yield Description("size", largest, (f"{big} {name}", f"the {large} {name}"))
    yield Description("size", smallest, (f"{small} {name}", f"the {small} {name}"))


def _from_sides(peers: Sequence[Thing], height: int, width: int) -> Iterator[tuple[str, list[float], int]]:
    """Each side of the image with the peers' distances from it and the image's extent in that direction."""
    yield "left", [t.x for t in peers], width
    yield "right", [width - t.x for t in peers], width
    yield "top", [t.y for t in peers], height
    yield "bottom", [height - t.y for t in peers], height


_ENDS = {
    "left": ("leftmost {}", "{} furthest to the left"),
    "right": ("rightmost {}", "{} furthest to the right"),
    "top": ("topmost {}", "{} at the top"),
    "bottom": ("lowest {}", "{} at the bottom"),
}


def _by_place(name: str, peers: Sequence[Thing], height: int, width: int) -> Iterator[Description]:
    for side, values, extent in _from_sides(peers, height, width):
        fits = _extreme(values, lambda least, extent=extent: least + LEVEL * extent)  # type: ignore[misc]
        wordings = [form.format(name) for form in _ENDS[side]]
        if len(peers) == 2:
            wordings += [f"{side} {name}", f"the {side} {name}"]
        if side in ("left", "right") and min(values) < extent / 3:
            wordings.append(f"{name} on the {side}")
        if side in ("top", "bottom") and min(values) > extent / 2:
            wordings = [w for w in wordings if " at the " not in w]  # highest of them, yet in the lower half
        yield Description("place", fits, tuple(wordings))


def _by_rank(name: str, peers: Sequence[Thing], height: int, width: int) -> Iterator[Description]:
    """ "second cat from the left": only where the whole row can be counted without doubt."""
    if len(peers) < 3:
        return
    for side, values, extent in _from_sides(peers, height, width):
        order = sorted(range(len(peers)), key=values.__getitem__)
        if min(values[b] - values[a] for a, b in pairwise(order)) < LEVEL * extent:
            continue
        nearer = order[: (len(peers) + 1) // 2]  # people count from the nearer end
        for position, peer in enumerate(nearer, start=1):
            if ordinal := ORDINALS.get(position):
                fits: Fits = [number == peer for number in range(len(peers))]
                yield Description(
                    "ordinal", fits, (f"{ordinal} {name} from {side}", f"the {ordinal} {name} from the {side}")
                )
        if len(peers) == 3 and side in ("left", "top"):
            middle: Fits = [number == order[1] for number in range(3)]
            yield Description("ordinal", middle, (f"middle {name}", f"{name} in the middle"))


def _by_relation(name: str, peers: Sequence[Thing], anchor: Thing, height: int, width: int) -> Iterator[Description]:
    other = anchor.category
    seen = [anchor, *peers]
    # every direction is "left of" in a picture that was mirrored, turned, or both
    for words, turned, (first, *things) in (
        (("left of", "to the left of"), False, seen),
        (("right of", "to the right of"), False, map(_mirrored, seen)),
        (("above",), True, map(_turned, seen)),
        (("below", "under"), True, map(_mirrored, map(_turned, seen))),
    ):
        along, across = (height, width) if turned else (width, height)
        fits = [_beside(thing, first, along, across) for thing in things]
        yield Description("relation", fits, tuple(f"{name} {word} the {other}" for word in words))
    if len(peers) > 1:
        far = LEVEL * max(height, width)
        nearest = _extreme([_gap(t, anchor) for t in peers], lambda least: max(least * SAME_SIZE, least + far))
        yield Description("relation", nearest, (f"{name} closest to the {other}", f"the {name} nearest the {other}"))


def _beside(thing: Thing, anchor: Thing, along: float, across: float) -> Judgement:
    """Whether `thing` is left of `anchor`: clearly, clearly not, or neither."""
    if thing.x >= anchor.x:
        return False
    apart = thing.right <= anchor.left + LEVEL * along and anchor.x - thing.x >= 2 * LEVEL * along
    overlap = min(thing.bottom, anchor.bottom) - max(thing.top, anchor.top)
    level = overlap > 0 or -overlap < LEVEL * across
    return True if apart and level else None


def _mirrored(thing: Thing) -> Thing:
    return Thing(thing.ann_id, thing.category, -thing.right, thing.top, -thing.left, thing.bottom, thing.area)


def _turned(thing: Thing) -> Thing:
    return Thing(thing.ann_id, thing.category, thing.top, thing.left, thing.bottom, thing.right, thing.area)


def _gap(a: Thing, b: Thing) -> float:
    """Distance between two boxes, 0 if they touch."""
    across = max(0.0, a.left - b.right, b.left - a.right)
    down = max(0.0, a.top - b.bottom, b.top - a.bottom)
    return (across**2 + down**2) ** 0.5
