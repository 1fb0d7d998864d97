"""Turns COCO-format instances into a referring data set: template expressions, checked to be unambiguous.

For those who have instance masks but no sentences, and to measure on real photos (`mail.data.descriptions` says what an
object can be called). Categories with a crowd annotation in an image are left alone there: nobody knows how many there
are. Which photos go to which split, and which words are chosen, depends on ids alone, so that the same files always
give the same data set.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random

from mail.data.coco import CocoImage, CocoInstances
from mail.data.coco_masks import CocoMasks
from mail.data.descriptions import Description, Thing, describe
from mail.data.images import ImageError, stored_size
from mail.data.ingest import Findings, Progress, Referent, SourceImage, ingest, source_record
from mail.data.orientation import AS_SHOWN, ExifAnnotated, Size, place, turn_box
from mail.data.photos import find_photos
from mail.data.problems import Problems
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from mail.rle import RLE

SPLIT_SHARES = {"train": 0.80, "val": 0.08, "testA": 0.06, "testB": 0.06}


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
            by_kind: defaultdict[str, list[Description]] = defaultdict(list)
            for description in descriptions:
                if description.names(number):
                    by_kind[description.kind].append(description)
            kinds = random.sample(sorted(by_kind), min(len(by_kind), config.max_expressions))
            texts = [random.choice(random.choice(by_kind[kind]).wordings) for kind in kinds]
            if texts:
                found.append((thing, texts))
    return random.sample(found, min(len(found), config.max_refs))


def write_store(
    instances: str,
    images: Path,
    out: str,
    *,
    name: str = "coco-text",
    namespace: str = "coco",
    config: TextConfig | None = None,
    skip_bad: bool = False,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    prepared_with: dict | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Makes a data store of the photos in `images` and the expressions that their instances allow.

    Args:
        instances: a COCO instances file.
        namespace: image ids are `namespace/number`. Keep "coco" for COCO's own photos: the leak check knows them by it.
        skip_bad: leave out, and count, photos that are missing or do not fit their annotations.
        exif_annotated: how photos that EXIF turns were annotated, where their size does not tell. Expressions are
            always about the picture as a viewer shows it.

    Raises:
        UserError: photos are missing or of another size than annotated, or no expression can be made at all.
    """
    writer, problems = DataStoreWriter(out, name), Problems()
    coco = CocoInstances(instances)
    found = find_photos(images, (image.file_name for image in coco.images.values()), instances, problems)
    paths = {image.id: found[image.file_name] for image in coco.images.values() if image.file_name in found}
    masks = CocoMasks(coco)
    store, findings = ingest(
        _source_images(masks, paths, name, namespace, config or TextConfig(), exif_annotated, problems),
        writer,
        where=instances,
        photos=paths.values(),
        problems=problems,
        sources=[source_record(Path(instances).name, Path(instances))],
        skip_bad=skip_bad,
        prepared_with=prepared_with,
        exif_annotated=exif_annotated,
        progress=progress,
    )
    findings.remarks = [*coco.remarks(), *masks.remarks()]
    return store, findings


def split_of(image_id: str, has_people: bool, has_others: bool) -> str:
    """Split of an image, from its id: testA is about people and testB about everything else, as in RefCOCO."""
    at = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") / 2**64
    ends = accumulate(SPLIT_SHARES.values())
    split = next((name for name, end in zip(SPLIT_SHARES, ends, strict=True) if at < end), "testB")
    if split == "testA" and not has_people:
        return "testB"
    return "testA" if split == "testB" and not has_others else split


def _source_images(
    masks: CocoMasks,
    paths: dict[int, Path],
    name: str,
    namespace: str,
    config: TextConfig,
    exif_annotated: ExifAnnotated,
    problems: Problems,
) -> Iterator[SourceImage]:
    coco = masks.coco
    nothing, left_out = True, Problems()
    for number in sorted(paths, key=str):  # as strings, like the store's ids
        image = coco.images[number]
        annotated, turn = (image.height, image.width), _turn(paths[number], image, exif_annotated)
        if turn >= 5:
            image = replace(image, height=image.width, width=image.height)
        things, targets, crowded = _things(masks, number, annotated, turn, problems, left_out)
        found = expressions_of(image, things, crowded, config)
        image_id = f"{namespace}/{number}"
        people = [thing.category.casefold() == "person" for thing, _ in found]
        split = split_of(image_id, any(people), not all(people))
        referents = [
            Referent(
                f"{name}/{thing.ann_id}",
                split,
                [(f"{name}/{thing.ann_id}-{k}", text) for k, text in enumerate(texts)],
                [],
                [thing.ann_id],
                thing.category,
                target=targets[thing.ann_id],
            )
            for (thing, texts), person in zip(found, people, strict=True)
            if split in ("train", "val") or person == (split == "testA")
        ]
        if referents:
            nothing = False
            yield SourceImage(image_id, paths[number], annotated, referents)
        elif nothing:
            for thing in things:
                left_out.add("are too small or too many, or nothing tells them apart", thing.ann_id)
    if nothing:
        reasons = "; ".join(filter(None, (left_out.describe(), problems.describe())))
        raise UserError(
            f"{coco.path}: not one unambiguous expression can be made of its {len(coco)} instances on {len(paths)} "
            f"photos: {reasons or 'there are none'}"
        )


def _things(
    masks: CocoMasks, number: int, annotated: Size, turn: int, problems: Problems, left_out: Problems
) -> tuple[list[Thing], dict[int, RLE], set[str]]:
    """What an image's sentences can be about, upright; the masks by annotation id; categories that none can count."""
    things, targets, crowded = [], {}, set()
    for instance in masks.coco.instances_of(number):
        category = masks.coco.name_of(instance.category_id)
        if instance.is_crowd:
            crowded.add(category)
            left_out.add("are crowds", instance.id)
            continue
        if not category:
            left_out.add("are of a category without a name", instance.id)
            continue
        try:
            measured = masks.measure(instance)
        except ValueError as error:
            crowded.add(category)  # it is there all the same
            problems.add("annotations have no usable mask", f"{instance.id}: {error}")
            continue
        x, y, width, height = measured.box
        box = turn_box((x, y, x + width, y + height), annotated, turn)
        things.append(Thing(instance.id, category, *box, measured.area))
        targets[instance.id] = measured.rle
    return things, targets, crowded


def _turn(path: Path, image: CocoImage, exif_annotated: ExifAnnotated) -> int:
    """The EXIF orientation by which the annotations of a photo are turned; 1 if `ingest` will find fault with it."""
    try:
        placed = place(*stored_size(path), (image.height, image.width), exif_annotated)
    except ImageError:
        return 1
    return 1 if placed is None else placed.turn
