"""What weights saw before they came here: listed images, whole collections, or more than anybody knows.

An `Origin` is kept as JSON beside the weights (`images.json` of a proposer, of a mask table):

    ["coco/9", ["own/1", SHA256, SHA256 of the pixels, perceptual hash], ...]     nothing but listed images
    null                                                                          nobody knows
    {"images": [...], "collections": [{"name": "coco/train2017", "but": ["coco/139"]}],
     "without_masks": ["imagenet-1k"], "unknown": false}                          anything else

A collection is a published set of photos that nobody lists here. Whether it holds an image is told by the image's id
alone, and where an id does not tell, the image counts as seen. So each of COCO's collections holds every `coco/`
image: the photos of 2017 are those of 2014, divided anew (val2017 is 5,000 of val2014's, train2017 all the others, so
all of train2014's, which RefCOCO is made of), and a number does not say on which side it is. What is known to be left
out (val2017's, by its published annotations file) is listed in `but`. Contents of a collection are not known: the same
photo under an id of somebody's own is found only where the seen one's content is listed as well.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mail.data import schema
from mail.data.image_keys import entries_of, keys_of
from mail.errors import UserError, first_few

COLLECTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "coco/train2017": (("coco/",), "118,287 photos of COCO: all but val2017's"),
    "coco/train2014": (("coco/",), "82,783 photos of COCO, those of RefCOCO, RefCOCO+, RefCOCOg among them"),
    "coco/val2017": (("coco/",), "5,000 photos of COCO"),
    "coco/val2014": (("coco/",), "40,504 photos of COCO"),
    "lvis/train": (("coco/", "lvis/"), "100,170 photos of COCO, val2017's among them"),
    "visual-genome": (("coco/", "visual-genome/"), "108,077 photos, half of them COCO's"),
    "imagenet-1k": (("imagenet-1k/",), "1.3 million photos"),
    "imagenet-21k": (("imagenet-1k/", "imagenet-21k/"), "14 million photos"),
    "ade20k": (("ade20k/",), "27,574 photos"),
    "cityscapes": (("cityscapes/",), "5,000 photos of streets"),
    "mapillary-vistas": (("mapillary-vistas/",), "25,000 photos of streets"),
    "conceptual-captions": (("conceptual-captions/",), "3.3 million photos from the web"),
    "sbu-captions": (("sbu-captions/",), "1 million photos of Flickr"),
}
"""By name: what the ids of images that it may hold begin with, and how much it is. `NAME/*` is any other set of photos:
every image whose id begins with NAME/."""

REST = "/*"
UNLISTED = "what nobody listed"  # of what was seen without masks


def prefixes(name: str) -> tuple[str, ...]:
    """What the ids of images in a collection begin with.

    Raises:
        UserError: there is no such collection.
    """
    if name in COLLECTIONS:
        return COLLECTIONS[name][0]
    if name.endswith(REST) and name.removesuffix(REST):
        return (name.removesuffix("*"),)
    raise UserError(f"no collection {name!r}: there are {', '.join(COLLECTIONS)}, and NAME{REST} for all ids of NAME")


def is_collection(name: str) -> bool:
    """Whether `prefixes` knows it."""
    return name in COLLECTIONS or (name.endswith(REST) and name != REST)


@dataclass(frozen=True)
class Collection:
    """A published set of photos, less some.

    Attributes:
        name: of `COLLECTIONS`, or NAME/*.
        but: ids of images that are known not to have been seen, though their ids do not tell.
    """

    name: str
    but: frozenset[str] = frozenset()

    def holds(self, image_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Whether it may hold each of these images; by id alone."""
        begins = reduce(pc.or_, (pc.starts_with(image_ids, prefix) for prefix in prefixes(self.name)))
        return pc.and_(begins, pc.invert(pc.is_in(image_ids, pa.array(sorted(self.but), pa.string()))))

    def __str__(self) -> str:
        return f"{self.name} but {len(self.but)} images" if self.but else self.name


@dataclass(frozen=True, eq=False)
class Origin:
    """What somebody or something saw in training.

    Attributes:
        images: keys of the listed images (columns of `schema.IMAGE_KEYS`).
        collections: that were seen whole.
        without_masks: names of what was seen without masks (captions, class names); does not leak, and is shown.
        unknown: there was more, and nobody knows what.
    """

    images: pa.Table
    collections: tuple[Collection, ...] = ()
    without_masks: tuple[str, ...] = ()
    unknown: bool = False

    @classmethod
    def of(
        cls,
        seen: "Origin | pa.Table | Iterable[Any] | None" = (),
        collections: Sequence[Collection | str] = (),
        without_masks: Sequence[str] = (),
    ) -> "Origin":
        """Of keys of images, or entries as `image_keys.keys_of` takes them; None is unknown."""
        if isinstance(seen, Origin):
            return seen
        whole = tuple(Collection(c) if isinstance(c, str) else c for c in collections)
        for collection in whole:
            prefixes(collection.name)
        return cls(keys_of(() if seen is None else seen), whole, tuple(without_masks), seen is None)

    def __or__(self, other: "Origin") -> "Origin":
        """What whoever saw both has seen."""
        buts: dict[str, frozenset[str]] = {}
        for collection in (*self.collections, *other.collections):
            buts[collection.name] = buts.get(collection.name, collection.but) & collection.but
        images = keys_of(entries_of(pa.concat_tables([self.images, other.images])))
        without = dict.fromkeys((*self.without_masks, *other.without_masks))
        whole = tuple(Collection(name, but) for name, but in buts.items())
        return Origin(images, whole, tuple(without), self.unknown or other.unknown)

    def knowing(self, images: pa.Table) -> "Origin":
        """The same, with those of some images (keys) listed that a collection holds: what they show is known then."""
        if not self.collections:
            return self
        held = images.filter(self._held(images["image_id"]))
        return replace(self, images=pa.concat_tables([self.images, held]))

    def among(self, images: pa.Table) -> pa.Table:
        """Those of some images (keys) that were seen, under whatever name; what is unknown is not looked at."""
        found = self._held(images["image_id"])
        for key in schema.IDENTITIES:
            found = pc.or_(found, pc.is_in(images[key], self.images[key].combine_chunks(), skip_nulls=True))
        return images.filter(found)

    def _held(self, image_ids: pa.ChunkedArray) -> pa.Array:
        """Whether a collection may hold each of these images."""
        found = pa.array([False] * len(image_ids))
        for collection in self.collections:
            found = pc.or_(found, collection.holds(image_ids))
        return found

    @property
    def image_ids(self) -> list[str]:
        """Of the listed images, each once, sorted."""
        return sorted(set(self.images["image_id"].to_pylist()))

    @cached_property
    def digest(self) -> str:
        """sha256 of what was seen, whatever its order; of nothing but listed images, that of their ids alone."""
        rest = {k: v for k, v in self._rest().items() if v}
        return hashlib.sha256("\n".join([*self.image_ids, *([json.dumps(rest)] if rest else [])]).encode()).hexdigest()

    @property
    def summary(self) -> dict[str, Any] | None:
        """What lineage records keep of it; None where something is unknown."""
        if self.unknown:
            return None
        return {"count": len(self.image_ids), "digest": self.digest} | {k: v for k, v in self._named().items() if v}

    def to_json(self) -> Any:
        """Ready for JSON; lists and null as earlier versions wrote them, where that says it all."""
        images = entries_of(self.images)
        if self.unknown and not images and not self.collections and not self.without_masks:
            return None
        rest = self._rest()
        return {"images": images, **rest} if any(rest.values()) else images

    @classmethod
    def from_json(cls, content: Any) -> "Origin":
        """Of what `to_json` gave, or an earlier version wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            if content is None or isinstance(content, list):
                return cls.of(content)
            whole = [Collection(str(c["name"]), frozenset(map(str, c["but"]))) for c in content["collections"]]
            found = cls.of(content["images"], whole, [str(name) for name in content["without_masks"]])
            return cls(found.images, found.collections, found.without_masks, bool(content["unknown"]))
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise ValueError(f"it is no origin of weights: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Origin) or self._rest() != other._rest():
            return False
        return self.images.equals(other.images) or self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.digest)

    def _rest(self) -> dict[str, Any]:
        """All but the listed images, ready for JSON, sorted."""
        return {
            "collections": [{"name": c.name, "but": sorted(c.but)} for c in sorted(self.collections, key=str)],
            "without_masks": sorted(self.without_masks),
            "unknown": self.unknown,
        }

    def _named(self) -> dict[str, Any]:
        return {"collections": list(map(str, self.collections)), "without_masks": list(self.without_masks)}

    def __str__(self) -> str:
        return describe({"count": len(self.image_ids), "unknown": self.unknown} | self._named())


UNKNOWN = Origin.of(None)
NOTHING = Origin.of(())


def describe(summary: dict[str, Any] | None) -> str:
    """A line about an origin, of its `summary` (None: nobody knows)."""
    if summary is None:
        return "nobody knows what"
    parts = list(map(str, summary.get("collections") or ()))
    if count := summary.get("count"):
        parts.append(f"{count:,} listed images")
    if summary.get("unknown"):
        parts.append("nobody knows what" + (" else" if parts else ""))
    without = summary.get("without_masks")
    if not parts and not without:
        return "nothing"
    return first_few(parts, 9) + (f"{'; ' if parts else ''}without masks: {', '.join(without)}" if without else "")
