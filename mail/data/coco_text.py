"""Turns COCO-format instances into a referring data set: template expressions, checked to be unambiguous.

For those who have instance masks but no sentences, and to measure on real photos. An expression names an object of its
category by being the only one, by size, by place, by counting, or by its relation to the only object of another
category. Every description is judged for every object of the category: it fits, it does not, or it is unclear (two
boxes nearly level, sizes nearly equal). It is used only if it fits the referent and fits no other, not even unclearly.
Categories with a crowd annotation in an image are left alone there: nobody knows how many there are.

Geometry is that of the annotated boxes. Which photos go to which split, and which words are chosen, depends on ids
alone, so that the same files always give the same data set.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

from mail import addresses
from mail.data import files
from mail.data.coco import CocoImage, CocoInstances
from mail.data.ingest import Findings, Problems, Progress, Referent, SourceImage, ingest
from mail.data.refer import safe_file
from mail.data.store import DataStore, DataStoreWriter
from mail.errors import UserError

SPLIT_SHARES = {"train": 0.80, "val": 0.08, "testA": 0.06, "testB": 0.06}
LEVEL = 0.05  # of the image's side: nearer than this, one is not clearly left of (above) the other
SAME_SIZE = 1.5  # areas within this factor are not clearly different
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}

Judgement = bool | None  # None: unclear
Fits = list[Judgement]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How many expressions are made, and of what."""

    max_refs: int = 6
    """Most objects of an image that are referred to."""
    max_expressions: int = 3
    """Most expressions for one object; each describes it in another way."""
    min_area: float = 0.005
    """Smallest referent, as a fraction of the image's area."""
    max_peers: int = 8
    """Categories with more objects than this in an image are left alone there."""

    def __post_init__(self) -> None:
        if self.max_refs < 1 or self.max_expressions < 1 or not 0 <= self.min_area < 1 or self.max_peers < 1:
            raise UserError(
                "coco-text: max_refs, max_expressions and max_peers must be at least 1, min_area between 0 and 1, "
                f"not {self.max_refs}, {self.max_expressions}, {self.max_peers} and {self.min_area}"
            )


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


def expressions_of(
    image: CocoImage, things: Sequence[Thing], crowded: set[str], config: TextConfig
) -> list[tuple[Thing, list[str]]]:
    """Referents of an image with their expressions, in an order and wording that depend on ids alone."""
    random = Random(f"coco-text/{image.id}")
    counts = Counter(thing.category for thing in things)
    smallest = config.min_area * image.height * image.width
    lone = [t for t in things if counts[t.category] == 1 and t.category not in crowded and t.area >= smallest]
    found: list[tuple[Thing, list[str]]] = []
    for category in counts:
        peers = [thing for thing in things if thing.category == category]
        if category in crowded or len(peers) > config.max_peers:
            continue
        anchors = [thing for thing in lone if thing.category != category]
        descriptions = list(describe(peers, anchors, image.height, image.width))
        for number, thing in enumerate(peers):
            if thing.area < smallest:
                continue
            by_kind: dict[str, list[Description]] = {}
            for description in descriptions:
                if description.names(number):
                    by_kind.setdefault(description.kind, []).append(description)
            kinds = random.sample(sorted(by_kind), min(len(by_kind), config.max_expressions))
            texts = [random.choice(random.choice(by_kind[kind]).wordings) for kind in kinds]
            if texts:
                found.append((thing, texts))
    return random.sample(found, min(len(found), config.max_refs))


def write_store(
    instances: str,
    images: str | Path,
    out: str,
    *,
    name: str = "coco-text",
    namespace: str = "coco",
    config: TextConfig | None = None,
    skip_bad: bool = False,
    prepared_with: dict | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Makes a data store of the photos in `images` and the expressions that their instances allow.

    Args:
        instances: a COCO instances file.
        namespace: image ids are `namespace/number`. Keep "coco" for COCO's own photos: the leak check knows them by it.
        skip_bad: leave out, and count, photos that are missing or do not fit their annotations.

    Raises:
        UserError: photos are missing or of another size than annotated, or no expression can be made at all.
    """
    writer, images = DataStoreWriter(out, name), addresses.local_path(images)
    coco = CocoInstances(instances)
    if not images.is_dir():
        raise UserError(f"there is no folder {images}: --images is where the photos of {instances} are")
    problems = Problems()
    paths: dict[int, Path] = {}
    for image in coco.images.values():
        path = safe_file(images, image.file_name)
        if path is None or not path.is_file():
            problems.add(f"images are missing in {images}", image.file_name)
        else:
            paths[image.id] = path
    if not skip_bad:
        problems.raise_if_any(instances, "Complete the folder, or leave these out with --skip-bad")
    sources = _source_images(coco, paths, name, namespace, config or TextConfig())
    findings = ingest(
        sources,
        writer,
        where=instances,
        total=len(paths),
        skip_bad=skip_bad,
        turn_masks=False,  # "left" was written for the annotated picture
        progress=progress,
    )
    if findings.expressions == 0:
        raise UserError(f"{instances}: not one unambiguous expression can be made of its {len(coco)} instances")
    findings.skipped = problems.counts() | findings.skipped
    file = addresses.local_path(instances)
    source = {"path": file.name, "sha256": files.sha256_file(file), "bytes": file.stat().st_size}
    return writer.finish([source], prepared_with), findings


def split_of(image_id: str, has_people: bool, has_others: bool) -> str:
    """Split of an image, from its id: testA is about people and testB about everything else, as in RefCOCO."""
    at = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") / 2**64
    ends = accumulate(SPLIT_SHARES.values())
    split = next((name for name, end in zip(SPLIT_SHARES, ends, strict=True) if at < end), "testB")
    if split == "testA" and not has_people:
        return "testB"
    return "testA" if split == "testB" and not has_others else split


def _source_images(
    coco: CocoInstances, paths: dict[int, Path], name: str, namespace: str, config: TextConfig
) -> Iterator[SourceImage]:
    for number in sorted(paths, key=str):  # as strings, like the store's ids
        image = coco.images[number]
        rows = coco.rows_of(number)
        names = [coco.categories.get(int(c), "") for c in coco.category_ids[rows]]
        crowded = {category for category, row in zip(names, rows, strict=True) if coco.is_crowd[row]}
        things = []
        for category, row in zip(names, rows, strict=True):
            x, y, width, height = (float(v) for v in coco.bboxes[row])
            if category and not coco.is_crowd[row]:
                box = (x, y, x + width, y + height)
                things.append(Thing(int(coco.annotation_ids[row]), category, *box, float(coco.areas[row])))
        found = expressions_of(image, things, crowded, config)
        image_id = f"{namespace}/{number}"
        people = [thing.category == "person" for thing, _ in found]
        split = split_of(image_id, any(people), not all(people))
        referents = [
            Referent(
                f"{name}/{thing.ann_id}",
                split,
                [(f"{name}/{thing.ann_id}-{k}", text) for k, text in enumerate(texts)],
                [coco.instance(thing.ann_id).segmentation],
                [thing.ann_id],
                thing.category,
            )
            for (thing, texts), person in zip(found, people, strict=True)
            if split in ("train", "val") or person == (split == "testA")
        ]
        if referents:
            yield SourceImage(image_id, paths[number], (image.height, image.width), referents)


def _extreme(values: Sequence[float], margin: Callable[[float], float]) -> Fits:
    """Whom "the smallest value" fits: nobody clearly, if several lie within `margin(smallest)` of each other."""
    smallest = min(values)
    near = [value <= margin(smallest) for value in values]
    return [(True if sum(near) == 1 else None) if close else False for close in near]


def _by_size(name: str, peers: Sequence[Thing]) -> Iterator[Description]:
    areas = [thing.area for thing in peers]
    largest = _extreme([-a for a in areas], lambda least: least / SAME_SIZE)
    smallest = _extreme(areas, lambda least: least * SAME_SIZE)
    two = len(peers) == 2
    yield Description(
        "size", largest, (f"{'bigger' if two else 'biggest'} {name}", f"the large{'r' if two else 'st'} {name}")
    )
    yield Description(
        "size", smallest, (f"small{'er' if two else 'est'} {name}", f"the small{'er' if two else 'est'} {name}")
    )


def _by_place(name: str, peers: Sequence[Thing], height: int, width: int) -> Iterator[Description]:
    sides = (
        ("left", [t.x for t in peers], width, ("leftmost {}", "{} furthest to the left")),
        ("right", [width - t.x for t in peers], width, ("rightmost {}", "{} furthest to the right")),
        ("top", [t.y for t in peers], height, ("topmost {}", "{} at the top")),
        ("bottom", [height - t.y for t in peers], height, ("lowest {}", "{} at the bottom")),
    )
    for side, values, extent, most in sides:
        fits = _extreme(values, lambda least, extent=extent: least + LEVEL * extent)  # type: ignore[misc]
        wordings = [form.format(name) for form in most]
        if len(peers) == 2:
            wordings += [f"{side} {name}", f"the {side} {name}"]
        if side in ("left", "right") and min(values) < extent / 3:
            wordings.append(f"{name} on the {side}")
        if side in ("top", "bottom") and min(values) > extent / 2:
            wordings = [w for w in wordings if " at the " not in w]  # highest of them, yet in the lower half
        yield Description("place", fits, tuple(wordings))


def _by_rank(name: str, peers: Sequence[Thing], height: int, width: int) -> Iterator[Description]:
    """ "second cat from the left": only where the whole row can be counted without doubt."""
    rows = (
        ("left", [t.x for t in peers], width),
        ("right", [width - t.x for t in peers], width),
        ("top", [t.y for t in peers], height),
        ("bottom", [height - t.y for t in peers], height),
    )
    if len(peers) < 3:
        return
    for side, values, extent in rows:
        order = sorted(range(len(peers)), key=values.__getitem__)
        gaps = [values[b] - values[a] for a, b in pairwise(order)]
        if min(gaps) < LEVEL * extent:
            continue
        for position, peer in enumerate(order, start=1):
            if position in ORDINALS and position <= (len(peers) + 1) // 2:  # people count from the nearer end
                fits: Fits = [number == peer for number in range(len(peers))]
                ordinal = ORDINALS[position]
                yield Description(
                    "ordinal", fits, (f"{ordinal} {name} from {side}", f"the {ordinal} {name} from the {side}")
                )
        if len(peers) == 3 and side in ("left", "top"):
            middle: Fits = [number == order[1] for number in range(3)]
            yield Description("ordinal", middle, (f"middle {name}", f"{name} in the middle"))


def _by_relation(name: str, peers: Sequence[Thing], anchor: Thing, height: int, width: int) -> Iterator[Description]:
    other = anchor.category
    relations = (
        (("left of", "to the left of"), [_beside(t, anchor, width, height) for t in peers]),
        (("right of", "to the right of"), [_beside(_mirrored(t), _mirrored(anchor), width, height) for t in peers]),
        (("above",), [_beside(_turned(t), _turned(anchor), height, width) for t in peers]),
        (
            ("below", "under"),
            [_beside(_mirrored(_turned(t)), _mirrored(_turned(anchor)), height, width) for t in peers],
        ),
    )
    for words, fits in relations:
        yield Description("relation", fits, tuple(f"{name} {word} the {other}" for word in words))
    if len(peers) > 1:
        far = LEVEL * max(height, width)
        distances = [_gap(t, anchor) for t in peers]
        nearest = _extreme(distances, lambda least: max(least * SAME_SIZE, least + far))
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
