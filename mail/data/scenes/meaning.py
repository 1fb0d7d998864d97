"""The structured meaning of a referring expression, and which objects of a scene it can name.

Every test has three answers: an object *surely* fits, *possibly* fits (a near-tie, a place on the border, a word that
some people would use and others not), or does not. An expression is good only if one object surely fits and no other
one possibly does.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from mail.rle import RLE

CLEARLY_VISIBLE = 0.35  # visible share below which an object is never a referent, and its size cannot be judged
SIDES = ("left", "right", "top", "bottom")
CATEGORIES = ("attribute", "absolute", "relative", "ordinal", "superlative")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object of a scene; lengths in pixels, x to the right, y down."""

    kind: str
    colour: str
    size: str
    """`small`, `medium` or `large`."""
    radius: float
    """Half the extent of the whole outline, hidden parts included."""
    box: tuple[float, float, float, float]
    """x, y, width, height of the visible part."""
    area: int
    """Visible pixels."""
    visible: float
    """Visible share of the whole object, 0..1; what the frame cuts off does not count."""
    covers: dict[int, int]
    """Index of another object -> how many pixels of it this one hides."""
    mask: RLE
    """Visible part."""

    centre: tuple[float, float] = dataclasses.field(init=False)
    """x, y of the middle of `box`."""

    def __post_init__(self) -> None:
        x, y, width, height = self.box
        object.__setattr__(self, "centre", (x + width / 2, y + height / 2))


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A part of the picture: `across` is left, middle, right or None, `down` is top, middle, bottom or None."""

    across: str | None
    down: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Rank:
    """The `position`-th (from 1) counted from a side, or by size from `biggest` or `smallest`."""

    start: str
    position: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Relation:
    """Where the object is, seen from another one: left, right, top (above), bottom (below) of it, in front of it,
    behind it, or closest to it."""

    direction: str
    anchor: "Meaning"


@dataclasses.dataclass(frozen=True, slots=True)
class Meaning:
    """What an expression says: attributes (None = not said) and at most one statement about place or rank."""

    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    place: Place | Rank | Relation | None = None

    @property
    def category(self) -> str:
        """One of CATEGORIES."""
        if isinstance(self.place, Place):
            return "absolute"
        if isinstance(self.place, Relation):
            return "relative"
        if isinstance(self.place, Rank):
            return "superlative" if self.place.position == 1 else "ordinal"
        return "attribute"

    def without_attributes(self) -> "Meaning":
        return Meaning(place=self.place)


Fit = tuple[set[int], set[int]]  # objects that surely fit, objects that possibly fit (the former included)


def resolves(meaning: Meaning, objects: Sequence[SceneObject], size: tuple[int, int]) -> set[int]:
    """Indices of the objects that an expression can name in a scene of `size` (H, W).

    One index means that this object surely fits and no other possibly does; several, that the expression is ambiguous;
    none, that nothing surely fits.
    """
    sure, possible = fit(meaning, objects, size)
    return possible if len(possible) > 1 else sure


def fit(meaning: Meaning, objects: Sequence[SceneObject], size: tuple[int, int]) -> Fit:
    """The objects that surely and possibly fit; see the module's text."""
    sure, possible = _fit(_described(meaning, objects))
    match meaning.place:
        case Place() as place:
            keep = _fit(_placed(place, objects, size))
            return sure & keep[0], possible & keep[1]
        case Rank() as rank:
            if sure != possible:  # who counts is unclear, so every rank is
                return set(), possible
            return _fit(_ranked(rank, sorted(sure), objects, size))
        case Relation() as relation:
            anchors = resolves(relation.anchor, objects, size)
            if len(anchors) != 1:
                return set(), possible
            (anchor,) = anchors
            keep = _fit(_related(relation.direction, anchor, sorted(possible - {anchor}), objects, size))
            return sure & keep[0], possible & keep[1]
    return sure, possible


def _fit(judged: Iterable[tuple[int, bool, bool]]) -> Fit:
    """From (object, whether it surely fits, whether it possibly does) to the two sets."""
    verdicts = list(judged)
    return {i for i, surely, _ in verdicts if surely}, {i for i, _, possibly in verdicts if possibly}


def _described(meaning: Meaning, objects: Sequence[SceneObject]) -> Iterator[tuple[int, bool, bool]]:
    for index, item in enumerate(objects):
        fits = meaning.kind in (None, item.kind) and meaning.size in (None, item.size)
        clear = item.visible >= CLEARLY_VISIBLE  # of a sliver only the colour can be told
        if meaning.colour in (None, item.colour):
            yield index, clear and fits, fits or not clear


_REGIONS: dict[str, tuple[float, float, float, float]] = {  # possibly from, surely from, surely to, possibly to
    "low": (-1.0, -1.0, 0.42, 0.54),
    "middle": (0.24, 0.36, 0.64, 0.76),
    "high": (0.46, 0.58, 2.0, 2.0),
}
_REGION_OF = {"left": "low", "top": "low", "right": "high", "bottom": "high", "middle": "middle"}


def _placed(place: Place, objects: Sequence[SceneObject], size: tuple[int, int]) -> Iterator[tuple[int, bool, bool]]:
    height, width = size
    for index, item in enumerate(objects):
        x, y = item.centre
        surely = possibly = True
        for word, at in ((place.across, x / width), (place.down, y / height)):
            if word is not None:
                maybe_from, from_, to, maybe_to = _REGIONS[_REGION_OF[word]]
                surely &= from_ <= at <= to
                possibly &= maybe_from <= at <= maybe_to
        yield index, surely, possibly


def _ranked(
    rank: Rank, candidates: list[int], objects: Sequence[SceneObject], size: tuple[int, int]
) -> Iterator[tuple[int, bool, bool]]:
    """With n objects surely before this one and m possibly, its rank is anything from n + 1 to m + 1."""
    ahead = (
        _by_size(rank.start, objects) if rank.start in ("biggest", "smallest") else _by_side(rank.start, objects, size)
    )
    for index in candidates:
        others = [other for other in candidates if other != index]
        first = 1 + sum(ahead(other, index) for other in others)
        last = 1 + sum(not ahead(index, other) for other in others)
        yield index, first == rank.position == last, first <= rank.position <= last


Before = Callable[[int, int], bool]


def _by_side(side: str, objects: Sequence[SceneObject], size: tuple[int, int]) -> Before:
    """Surely nearer to a side: the centre by a margin, and the edge that faces it too."""
    height, width = size
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    margin = 0.08 * (width, height)[axis]

    def edge(item: SceneObject) -> float:
        return item.box[axis] if sign == 1 else -(item.box[axis] + item.box[axis + 2])

    def before(a: int, b: int) -> bool:
        one, two = objects[a], objects[b]
        return sign * (two.centre[axis] - one.centre[axis]) > margin and edge(two) > edge(one)

    return before


def _by_size(start: str, objects: Sequence[SceneObject]) -> Before:
    """Surely bigger (or smaller): the whole outline and the visible part both by a margin."""

    def before(a: int, b: int) -> bool:
        big, small = (objects[a], objects[b]) if start == "biggest" else (objects[b], objects[a])
        return big.radius > 1.25 * small.radius and big.area > 1.3 * small.area

    return before


def _related(
    direction: str, anchor: int, candidates: list[int], objects: Sequence[SceneObject], size: tuple[int, int]
) -> Iterator[tuple[int, bool, bool]]:
    target = objects[anchor]
    if direction in ("front", "behind"):
        for index in candidates:
            upper, lower = (index, anchor) if direction == "front" else (anchor, index)
            hidden = objects[upper].covers.get(lower, 0)
            yield index, hidden >= 0.1 * min(objects[upper].area, objects[lower].area), hidden > 0
        return
    if direction == "closest":
        away = {i: math.dist(objects[i].centre, target.centre) for i in candidates}
        for index in candidates:
            others = [away[i] for i in candidates if i != index]
            surely = bool(others) and all(1.35 * away[index] + 2 < other for other in others)
            yield index, surely, all(away[index] < 1.35 * other + 2 for other in others)
        return
    axis, sign = (0 if direction in ("left", "right") else 1), (-1 if direction in ("left", "top") else 1)
    side = min(size)
    for index in candidates:
        centre = objects[index].centre
        along = sign * (centre[axis] - target.centre[axis])
        across = abs(centre[1 - axis] - target.centre[1 - axis])
        possibly = along > 0.03 * side and across < 1.7 * along + 0.03 * side
        yield index, along > 0.1 * side and across < along, possibly
