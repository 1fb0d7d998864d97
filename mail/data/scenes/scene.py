"""Composes one scene: which objects, where, in which order they are painted, and what is said about them."""

import dataclasses
import functools
import math
from random import Random
from typing import Any, Literal

import numpy as np

from mail import rle
from mail.data.scenes import textures
from mail.data.scenes.domains import DOMAINS, Domain, DomainName
from mail.data.scenes.groups import Setting
from mail.data.scenes.many import refer_to_many
from mail.data.scenes.meaning import SceneObject
from mail.data.scenes.references import Reference, refer_to_one_each
from mail.data.scenes.shapes import outline, stamp
from mail.errors import UserError

Targets = Literal["one", "many"]
SPLITS = ("train", "val", "testA", "testB")
_SMALLEST_SLIVER = 16  # pixels; a scene that shows less than this of an object is drawn again


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SceneConfig:
    """How scenes look and what is said about them; part of what determines every one of them."""

    min_side: int = 112
    """Smallest height and width of an image, in pixels."""
    max_side: int = 144
    """Largest height and width of an image, in pixels."""
    min_objects: int = 3
    """Fewest objects in a scene."""
    max_objects: int = 8
    """Most objects in a scene."""
    max_refs: int = 3
    """Most objects of a scene that are referred to, or groups of objects."""
    max_sentences: int = 3
    """Most sentences for one referent."""
    domain: DomainName = "shapes"
    """What is in the scenes: shapes, or tiles, which look otherwise (other kinds, colours, textures and grounds)."""
    targets: Targets = "one"
    """What an expression names: one object; or, in half of the cases, several or nothing (many), as in gRefCOCO."""
    jpeg_quality: int = 90
    """Quality of the JPEG files, 1..95."""
    split_shares: tuple[float, float, float, float] = (0.80, 0.08, 0.06, 0.06)
    """Shares of train, val, testA (round referents) and testB (angular referents)."""

    def __post_init__(self) -> None:
        if not 64 <= self.min_side <= self.max_side <= 1024:
            raise UserError(f"scenes: sides {self.min_side}..{self.max_side} must be a range within 64..1024 pixels")
        if not 3 <= self.min_objects <= self.max_objects <= 12:
            raise UserError(f"scenes: objects {self.min_objects}..{self.max_objects} must be a range within 3..12")
        if self.max_refs < 1 or self.max_sentences < 1:
            raise UserError("scenes: max_refs and max_sentences must be at least 1")
        if not 1 <= self.jpeg_quality <= 95:
            raise UserError(f"scenes: JPEG quality {self.jpeg_quality} must lie in 1..95")
        if len(self.split_shares) != len(SPLITS) or min(self.split_shares) < 0 or sum(self.split_shares) <= 0:
            raise UserError(f"scenes: split shares {self.split_shares} must be four numbers >= 0 ({', '.join(SPLITS)})")

    def record(self) -> dict[str, Any]:
        """The fields as files keep them; `targets` only where it is not what earlier versions had alone."""
        fields = dataclasses.asdict(self)
        if self.targets == "one":
            del fields["targets"]
        return fields


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One generated picture with everything that is known about it."""

    index: int
    split: str
    image: np.ndarray
    """uint8 (H, W, 3) RGB."""
    objects: list[SceneObject]
    references: list[Reference]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]


@functools.cache
def _split_cycle(shares: tuple[float, ...]) -> tuple[str, ...]:
    """Splits of 200 scenes in a row, each time the one furthest behind its share, so every prefix is near them."""
    counts = [0] * len(shares)
    cycle = []
    for drawn in range(1, 201):
        behind = [share * drawn / sum(shares) - count for share, count in zip(shares, counts, strict=True)]
        counts[(chosen := behind.index(max(behind)))] += 1
        cycle.append(SPLITS[chosen])
    return tuple(cycle)


def family(split: str, domain: Domain) -> tuple[str, ...]:
    """The kinds that a split refers to."""
    return {"testA": domain.round, "testB": domain.angular}.get(split, domain.kinds)


def split_of(index: int, config: SceneConfig) -> str:
    """Split of a scene: it follows from its number alone, so no scene is in two."""
    cycle = _split_cycle(config.split_shares)
    return cycle[index % len(cycle)]


def generate_scene(seed: int, index: int, config: SceneConfig | None = None) -> Scene:
    """Scene number `index` of the data set `seed`, fully determined by the three arguments."""
    config = config or SceneConfig()
    split = split_of(index, config)
    for attempt in range(1000):
        scene = _attempt(Random(f"{seed}/{index}/{attempt}"), index, split, config)
        if scene is not None:
            return scene
    raise RuntimeError(f"scene {index} of seed {seed}: 1000 attempts and nothing to refer to; {config}")


@dataclasses.dataclass(slots=True)
class _Plan:
    kind: str
    colour: str
    size: str
    radius: float
    x: float = 0.0
    y: float = 0.0


# radius in pixels of a scene whose shorter side is 128; the classes are far apart, so that nobody doubts
_RADII = {"small": (8.2, 9.6), "medium": (12.2, 14.2), "large": (19.0, 23.5)}


def _attempt(rng: Random, index: int, split: str, config: SceneConfig) -> Scene | None:
    domain = DOMAINS[config.domain]
    height, width = rng.randint(config.min_side, config.max_side), rng.randint(config.min_side, config.max_side)
    plans = _compose(rng, split, min(height, width) / 128, config, domain)
    _arrange(rng, plans, height, width)
    # small ones tend to lie on top, or they would often be gone
    plans.sort(key=lambda plan: -plan.radius * rng.uniform(0.4, 1.6))
    owner = np.zeros((height, width), dtype=np.uint8)  # 0 background, else 1 + number of the topmost object
    stamps, whole, covers = [], [], []
    for number, plan in enumerate(plans):
        rim = rng.choice((0.0, 0.8, 0.8, 1.2)) if plan.colour != "white" else 1.0
        stamped = stamp(outline(plan.kind, rng), (plan.x, plan.y), plan.radius, (height, width), rim)
        if stamped is None:
            return None
        inside = stamped.coverage >= 0.5
        h, w = inside.shape
        window = owner[stamped.top : stamped.top + h, stamped.left : stamped.left + w]
        hidden = np.bincount(window[inside], minlength=len(plans) + 1)
        covers.append({below: int(hidden[below + 1]) for below in range(number) if hidden[below + 1]})
        window[inside] = number + 1
        stamps.append(stamped)
        whole.append(int(inside.sum()))
    shown = np.bincount(owner.ravel(), minlength=len(plans) + 1)[1:].tolist()
    if any(0 < pixels < _SMALLEST_SLIVER for pixels in shown):
        return None
    kept = [number for number, pixels in enumerate(shown) if pixels]
    if len(kept) < config.min_objects:
        return None
    renumber = {number: new for new, number in enumerate(kept)}
    masks = rle.encode_many(owner[None] == np.array([n + 1 for n in kept], dtype=np.uint8)[:, None, None])
    objects = []
    for number, mask in zip(kept, masks, strict=True):
        plan = plans[number]
        box = rle.bbox(mask)
        objects.append(
            SceneObject(
                kind=plan.kind,
                colour=plan.colour,
                size=plan.size,
                radius=plan.radius,
                box=(box[0], box[1], box[2], box[3]),
                area=shown[number],
                visible=shown[number] / max(whole[number], 1),
                covers={renumber[below]: n for below, n in covers[number].items() if below in renumber},
                mask=mask,
            )
        )
    references = _refer(rng, objects, (height, width), family(split, domain), config)
    if not references:
        return None
    canvas = domain.background(rng, height, width)
    for plan, stamped in zip(plans, stamps, strict=True):
        textures.paint(canvas, stamped, domain.colours[plan.colour], plan.radius, rng, domain.surface)
    canvas += rng.uniform(1, 5) * textures.noise(rng, 0, height, width)[:, :, None]
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(index=index, split=split, image=image, objects=objects, references=references)


def _compose(rng: Random, split: str, scale: float, config: SceneConfig, domain: Domain) -> list[_Plan]:
    """Objects in groups of one kind; the first group is of a kind that the split may refer to, and never alone."""
    total = rng.randint(config.min_objects, config.max_objects)
    palette = rng.sample(list(domain.colours), rng.randint(2, 4))
    kinds = [rng.choice(family(split, domain))]
    kinds += rng.sample([kind for kind in domain.kinds if kind != kinds[0]], len(domain.kinds) - 1)
    sizes = [min(total, rng.choice((2, 2, 3, 3, 4, 5)))]
    while sum(sizes) < total:
        sizes.append(min(total - sum(sizes), rng.choice((1, 1, 2, 2, 3))))
    plans = []
    for kind, count in zip(kinds, sizes, strict=False):
        shared = rng.choice(palette)
        for _ in range(count):
            colour = shared if rng.random() < 0.4 else rng.choice(palette)
            size = (
                rng.choice(("small", "small", "medium", "medium", "large")) if total > 5 else rng.choice(list(_RADII))
            )
            plans.append(_Plan(kind, colour, size, rng.uniform(*_RADII[size]) * scale))
    return plans


def _arrange(rng: Random, plans: list[_Plan], height: int, width: int) -> None:
    """Places the objects: sometimes the first group in a rough row, the rest anywhere, overlapping at times."""
    placed: list[_Plan] = []
    row = sum(plan.kind == plans[0].kind for plan in plans) if rng.random() < 0.3 else 0
    row = row if row >= 3 else 0
    flat, level = rng.random() < 0.6, rng.uniform(0.25, 0.75)
    crowding = rng.choice((0.1, 0.25, 0.45))  # share of the objects that are put on or under another one
    for number, plan in enumerate(plans):
        best = -math.inf
        neighbour = rng.choice(placed) if number >= max(row, 1) and rng.random() < crowding else None
        for _ in range(8):
            if number < row:
                along, off = (number + 0.5 + rng.uniform(-0.2, 0.2)) / row, level + rng.uniform(-0.1, 0.1)
                x, y = (along * width, off * height) if flat else (off * width, along * height)
            elif neighbour is not None:
                turn = rng.uniform(0, 2 * math.pi)
                away = rng.uniform(0.45, 0.9) * (plan.radius + neighbour.radius)
                x, y = neighbour.x + away * math.cos(turn), neighbour.y + away * math.sin(turn)
            else:
                x, y = rng.uniform(0, width), rng.uniform(0, height)
            x = min(max(x, plan.radius * 0.85), width - plan.radius * 0.85)
            y = min(max(y, plan.radius * 0.85), height - plan.radius * 0.85)
            room = min(
                (math.hypot(x - other.x, y - other.y) / (plan.radius + other.radius) for other in placed), default=2.0
            )
            if room > best:
                best, plan.x, plan.y = room, x, y
            if best > 0.45:
                break
        placed.append(plan)


def _refer(
    rng: Random, objects: list[SceneObject], size: tuple[int, int], kinds_of_split: tuple[str, ...], config: SceneConfig
) -> list[Reference]:
    if config.targets == "one":
        return refer_to_one_each(objects, size, kinds_of_split, rng, config.max_refs, config.max_sentences)
    colours = tuple(DOMAINS[config.domain].colours)
    setting = Setting(objects=objects, size=size, kinds=kinds_of_split, colours=colours)
    return refer_to_many(setting, rng, config.max_refs, config.max_sentences)
