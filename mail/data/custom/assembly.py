"""From what the files say to images and referents: finds the photos, makes what ids are missing, draws splits."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mail.data.custom.described import Described, Part
from mail.data.custom.formats import Own
from mail.data.custom.splits import content_key, draw
from mail.data.images import ImageError, stored_size
from mail.data.ingest import Referent, SourceImage, at
from mail.data.orientation import Size
from mail.data.photos import PhotoFile, PhotoFolder
from mail.data.problems import Problems
from mail.data.reading import contents
from mail.data.schema import SPLITS
from mail.data.typed import whole_number
from mail.errors import first_few

MISSING = "images are missing in"


@dataclass
class Assembly:
    """Somebody's expressions beside the photos that there are.

    Attributes:
        by_image: photo -> what is said about things in it, sorted by name.
        photos: their files.
        remarks: what a person should know of how splits came about.
    """

    name: str
    problems: Problems
    by_image: dict[str, list[Described]] = field(default_factory=dict)
    photos: dict[str, PhotoFile] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def source_images(self) -> Iterator[SourceImage]:
        """For `ingest`, whose problems must be `problems`."""
        for image, things in self.by_image.items():
            photo = self.photos[image]
            referents = [r for thing in things if (r := self._referent(image, thing, photo)) is not None]
            if referents:
                size = next((thing.size for thing in things if thing.size), None) or _annotated_size(referents)
                yield SourceImage(f"{self.name}/{image}", photo, size, referents)

    def _referent(self, image: str, thing: Described, photo: PhotoFile) -> Referent | None:
        ids = [(f"{self.name}/{expr_id}", text) for expr_id, text in thing.texts]
        ref_id = f"{self.name}/{thing.ref_id}"
        segmentations = []
        for part in thing.parts:
            try:
                segmentation = _unpacked(part, photo) if isinstance(part, Part) else part
            except ValueError as error:
                self.problems.add("referents have an unusable mask", f"{ref_id}: {error}{at(thing.where)}")
                return None
            segmentations.append(segmentation)
        return Referent(
            ref_id,
            thing.split or "",
            ids,
            segmentations,
            [],
            thing.category,
            thing.no_target,
            where=thing.where,
        )


def assemble(
    own: Own, folder: PhotoFolder, name: str, shares: Mapping[str, float], seed: int, problems: Problems
) -> Assembly:
    """Looks up the photos, and gives every expression an id and a split; what cannot be is added to the problems.

    Args:
        name: what ids begin with.
        shares, seed: of the splits that are drawn where the files give none.
    """
    found = Assembly(name, problems, remarks=list(own.remarks))
    by_image: dict[str, list[Described]] = {}
    meant: dict[str, str] = {}
    for thing in own.described:
        image, name = next(filter(folder.has, thing.images), None), thing.images[0]
        if image is None:
            problems.add(f"{MISSING} {folder.where}", folder.explain(thing.images[-1]) + at(thing.where))
        elif meant.setdefault(image, name) != name:  # which tools do that put photos of many folders into one
            problems.add("photos of different names would be one", f"{name}, {meant[image]}{at(thing.where)}")
        else:
            by_image.setdefault(image, []).append(thing)
    found.by_image = dict(sorted(by_image.items()))
    found.photos = {image: folder.photo(image) for image in found.by_image}
    _give_ids(found)
    _give_splits(found, shares, seed)
    return found


def _give_ids(found: Assembly) -> None:
    """Makes the ids that are not given from the photo's name and the sentence, and the place among the same ones."""
    given, seen = Counter[str](), Counter[tuple[str, str]]()
    for image, things in found.by_image.items():
        for thing in things:
            for place, (expr_id, text) in enumerate(thing.texts):
                if expr_id is None:
                    seen[image, text] += 1
                    expr_id = hashlib.sha256(f"{image}\0{text}".encode()).hexdigest()[:16]
                    expr_id += f"-{seen[image, text]}" if seen[image, text] > 1 else ""
                    thing.texts[place] = expr_id, text
                given[expr_id] += 1
                if given[expr_id] > 1:
                    found.problems.add("expression ids come more than once", expr_id + at(thing.where))
            if thing.ref_id is None:
                thing.ref_id = thing.texts[0][0]


def _give_splits(found: Assembly, shares: Mapping[str, float], seed: int) -> None:
    """Draws the split of photos without one; a photo that has one, or whose content has, keeps it for all sentences."""
    open_ = {image for image, things in found.by_image.items() if any(thing.split is None for thing in things)}
    if not open_:
        return
    groups = {image: content_key(content) for image, content in contents(found.photos).items()}
    given: dict[str, set[str]] = {}
    for image, things in found.by_image.items():
        given.setdefault(groups[image], set()).update(thing.split for thing in things if thing.split is not None)
    drawn = draw({groups[image] for image in open_ if not given[groups[image]]}, shares, seed)
    ambiguous = []
    for image in sorted(open_):
        own = given[groups[image]]
        if len(own) > 1:
            ambiguous.append(image)
        split = drawn[groups[image]] if not own else max(own, key=SPLITS.index)
        for thing in found.by_image[image]:
            thing.split = thing.split or split
    counts = Counter(drawn.values())
    said = ", ".join(f"{split} {counts[split]}" for split in shares)
    found.remarks.append(f"splits drawn for {len(drawn)} photos of different content (seed {seed}): {said}")
    if followed := len(open_) - len({image for image in open_ if groups[image] in drawn}):
        found.remarks.append(
            f"{followed} photos have sentences without a split, which follow the split that is given for the photo"
        )
    if ambiguous:
        found.remarks.append(
            f"{len(ambiguous)} photos are given in several splits; their sentences without one are held out with the "
            f"last of these: {first_few(ambiguous)}"
        )


def _unpacked(part: Part, photo: PhotoFile) -> Any:
    def photo_size() -> Size:
        try:
            size, orientation = stored_size(photo.read_bytes())
        except (ImageError, OSError) as error:
            raise ValueError(f"the photo does not tell its size: {error}") from None
        return size[::-1] if orientation >= 5 else size

    return part.segmentation(photo_size)


def _annotated_size(referents: list[Referent]) -> Size | None:
    """Run lengths say for which size they were made; polygons do not."""
    for referent in referents:
        for segmentation in referent.segmentations:
            size = segmentation.get("size") if isinstance(segmentation, dict) else None
            if isinstance(size, list) and len(size) == 2:
                try:
                    height, width = (whole_number(side, "size") for side in size)
                except ValueError:  # told with the mask, which cannot be used
                    continue
                if height > 0 and width > 0:
                    return height, width
    return None
