"""Several data stores as one to train on, such that nothing is trained on that any of them evaluates on.

RefCOCO, RefCOCO+ and RefCOCOg take their photos from the same pool and split it differently: an image of one's training
split may be of another's test split. In the mixture an image that is an evaluation image of any of the stores has lost
its training expressions, of whichever store. It is the same image if its id, its file or its pixels are the same.

A photo may come under one id in two files (Visual Genome's of COCO's photos have another size). Masks fit one of them
only: that of the store that is named first stays, and the others lose what they say of the photo.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from mail.data.image_keys import ALIKE, ImageContent, identities
from mail.data.ingest import Progress
from mail.data.schema import IDENTITIES, is_evaluation_split
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError

FIELDS = ("image_id", "file_name", "image", "height", "width")
CONTENT = ImageContent._fields


@dataclass
class Mixture:
    """What a mixture holds, and what it had to leave out.

    Attributes:
        left_out: (store with the training expressions, store and split that evaluate on their image) -> (images,
            training expressions); an image that several splits evaluate on is counted with each.
        other_files: (store that lost expressions, store that has another file of their photo) -> (images, expressions).
        images, expressions: training images and expressions left out in all.
    """

    store: DataStore
    left_out: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    other_files: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    images: int = 0
    expressions: int = 0


def evaluation_images(stores: Sequence[DataStore]) -> dict[str, set[str]]:
    """Id or digest of an image -> "STORE SPLIT" of every evaluation split that it is in."""
    found: dict[str, set[str]] = {}
    for store in stores:
        for split, keys in store.image_keys([s for s in store.splits if is_evaluation_split(s)]).items():
            for identity in identities(keys):
                found.setdefault(identity, set()).add(f"{store.name} {split}")
    return found


def mix(
    stores: Sequence[DataStore],
    out: str,
    name: str,
    held_out: Sequence[DataStore] = (),
    prepared_with: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Mixture:
    """Writes a new store with the images and expressions of all `stores`.

    Args:
        held_out: stores whose evaluation images must not be trained on either, though they are not part of it.

    Raises:
        UserError: fewer than two stores, two of the same name, an id that means two different things, or nothing is
            left to train on.
    """
    names = [store.name for store in stores]
    if len(stores) < 2:
        raise UserError("a mixture needs at least two data stores")
    if doubled := sorted(n for n, count in Counter(names).items() if count > 1):
        raise UserError(f"two of the data stores are called {doubled[0]}: their expressions could not be told apart")
    writer = DataStoreWriter(out, name)
    writer.check_space(file.bytes for store in stores for file in store.image_files)
    evaluated = evaluation_images([*stores, *held_out])
    lost: dict[tuple[str, str], Counter[str]] = {}
    others: dict[tuple[str, str], Counter[str]] = {}
    everything: Counter[str] = Counter()
    trains = False
    total, done = sum(store.manifest["image_count"] for store in stores), 0
    merged = heapq.merge(*(_images(store) for store in stores), key=lambda item: item[0])
    for image_id, group in groupby(merged, key=lambda item: item[0]):
        rows: list[dict[str, Any]] = []
        kept: dict[str, Any] = {}
        keeper = ""
        same = list(group)
        known_by = {image[key] for _, _, image, _ in same for key in IDENTITIES}
        evaluated_by = {where for key in known_by & evaluated.keys() for where in evaluated[key]}
        for _, store_name, image, expressions in same:
            done += 1
            own = []
            for row in expressions:
                if is_evaluation_split(row["split"]) or not evaluated_by:
                    own.append(row)
                    continue
                everything[image_id] += 1
                for where in evaluated_by:
                    lost.setdefault((store_name, where), Counter())[image_id] += 1
            if own and kept and _is_another_file(kept, image):
                others.setdefault((store_name, keeper), Counter())[image_id] += len(own)
            elif own:  # another image under the same id is refused by the writer
                kept, keeper = kept or image, keeper or store_name
                rows += own
                content = ImageContent(**{key: image[key] for key in CONTENT})
                writer.add_image(**{key: image[key] for key in FIELDS}, content=content)
        for row in rows:
            writer.add_expression(**row)
        trains = trains or any(not is_evaluation_split(row["split"]) for row in rows)
        if progress is not None:
            progress(done, total)
    if not trains:
        raise UserError("nothing is left to train on: every training image is an evaluation image of one of the stores")
    sources = [{"path": s.uri, "sha256": s.digest, "bytes": sum(f.bytes for f in s.image_files)} for s in stores]
    store = writer.finish(sources, prepared_with)
    return Mixture(store, _counted(lost), _counted(others), len(everything), sum(everything.values()))


def _counted(lost: dict[tuple[str, str], Counter[str]]) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (len(images), sum(images.values())) for key, images in sorted(lost.items())}


def _is_another_file(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two images of one id show the same, in different files."""
    hashes = first["perceptual_hash"], second["perceptual_hash"]
    if first["sha256"] == second["sha256"] or None in hashes:
        return False
    return (hashes[0] ^ hashes[1]).bit_count() <= ALIKE


def _images(store: DataStore) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    """(image id, name of the store, fields of the image, its expressions), sorted by image id."""
    table = store.expressions()  # as large as the writer's own copy: texts and run lengths, no pixels
    expressions = (row for batch in table.to_batches(max_chunksize=1024) for row in batch.to_pylist())
    grouped = groupby(expressions, key=lambda row: row["image_id"])
    waiting = next(grouped, None)
    previous = ""
    unknown = dict.fromkeys(CONTENT)  # to a store of an earlier version
    for batch in store.images([*FIELDS, *CONTENT]):
        for image in (unknown | row for row in batch.to_pylist()):
            if image["image_id"] <= previous:
                raise UserError(f"{store.uri} is not sorted by image id ({image['image_id']}): prepare it again")
            previous = image["image_id"]
            own = []
            if waiting is not None and waiting[0] == image["image_id"]:
                own = list(waiting[1])
                waiting = next(grouped, None)
            yield image["image_id"], store.name, image, own
