"""From source images and what is said about them to a data store: what all published layouts have in common.

A reader of a layout yields `SourceImage`s, sorted by image id; `ingest` reads and decodes each file once, brings the
masks onto the upright image, and hands both to the `DataStoreWriter`. One image is in memory at a time (a few that are
read ahead, `mail.data.reading`), never the data set's pixels.

What is wrong with the input is collected and told in one message: the first few names and the total of every kind.
Nothing is left out silently.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mail import rle
from mail.data import files
from mail.data.images import turn_upright
from mail.data.orientation import AS_SHOWN, ExifAnnotated, Placement, Size, assumption, place
from mail.data.photos import PhotoFile, bytes_of
from mail.data.problems import Problems
from mail.data.reading import Seen, examined
from mail.data.segmentation import checked_mask
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError, first_few

LONG_EXPRESSION = 40  # words; ViLT's text input ends about there

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Referent:
    """One referred thing in one image, with all that is said about it.

    `segmentations` are COCO's (polygons or run lengths); the target is their union, empty if `no_target`. A reader that
    has made it already gives it as `target`, at the size of the annotations. `where` it stands, for messages.
    """

    ref_id: str
    split: str
    expressions: list[tuple[str, str]]  # (expr_id, text)
    segmentations: list[Any]
    ann_ids: list[int]
    category: str
    no_target: bool = False
    target: rle.RLE | None = None
    where: str = ""


@dataclass(slots=True)
class SourceImage:
    """One image file and its referents; `size` (height, width) is what its annotations were made for, if known."""

    image_id: str
    path: PhotoFile
    size: Size | None
    referents: list[Referent]

    @property
    def where(self) -> str:
        """The place that a message about the image names, in brackets; "" where none is known."""
        return at(self.referents[0].where) if self.referents else ""


def at(where: str) -> str:
    """A place as a message ends with it."""
    return f" ({where})" if where else ""


def source_record(name: str, source: Path | bytes) -> dict[str, Any]:
    """What a store remembers of a file that it was made from, or of its bytes: name, digest and length."""
    if isinstance(source, bytes):
        return {"path": name, "sha256": hashlib.sha256(source).hexdigest(), "bytes": len(source)}
    return {"path": name, "sha256": files.sha256_file(source), "bytes": source.stat().st_size}


@dataclass
class Findings:
    """What `ingest` met that a person should know, though it stopped nothing."""

    images: int = 0
    expressions: int = 0
    undecodable: list[str] = field(default_factory=list)  # "coco/42: truncated"
    turned: list[str] = field(default_factory=list)  # annotated on the stored pixels: masks turned with the image
    assumed_upright: list[str] = field(default_factory=list)  # sizes cannot tell which way round it was annotated
    assumed_stored: list[str] = field(default_factory=list)  # nor here, and the other choice was made: masks turned
    long_expressions: list[str] = field(default_factory=list)
    empty_targets: list[str] = field(default_factory=list)  # not one pixel although there is a referent
    skipped: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # of the reader, about its files

    def lines(self) -> Iterator[str]:
        """One sentence per finding."""

        long = f"have more than {LONG_EXPRESSION} words; a model may see only the beginning"
        kept = "they and their expressions are kept, and precompute records them as such"
        for names, said in (
            (self.undecodable, f"images cannot be decoded; {kept}"),
            (self.turned, "images were annotated unrotated; their masks are turned"),
            (self.long_expressions, f"expressions {long}"),
            (self.empty_targets, "referents have masks without a pixel"),
        ):
            if names:
                yield f"{len(names)} {said}: {first_few(names)}"
        if self.assumed_upright:
            yield assumption(self.assumed_upright, AS_SHOWN)
        if self.assumed_stored:
            yield assumption(self.assumed_stored, "as-stored")
        for kind, number in self.skipped.items():
            yield f"left out: {number} {kind}"
        yield from self.remarks


def ingest(
    images: Iterable[SourceImage],
    writer: DataStoreWriter,
    *,
    where: object,
    photos: Collection[PhotoFile],
    problems: Problems,
    sources: Sequence[dict[str, Any]],
    skip_bad: bool = False,
    prepared_with: dict[str, Any] | None = None,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Writes a store of images and expressions.

    Many photos are read in a process a core, so a script calls this below `if __name__ == "__main__"`.

    Args:
        images: sorted by image_id, each id once.
        where: what errors call the source.
        photos: the images' files.
        problems: what was left out before, to be counted with the rest.
        sources, prepared_with: for the record, see `DataStoreWriter.finish`.
        skip_bad: accept `problems`, and leave out referents with an unusable mask, and images of another size than
            annotated, and count them; otherwise they are an error.
        exif_annotated: how images that EXIF turns were annotated, where their size does not tell.

    Raises:
        UserError: there is too little room, a file cannot be read, or (unless `skip_bad`) there are problems, or
            something is wrong with sizes or masks.
    """
    if not skip_bad:
        problems.raise_if_any(where, "Complete the data set, or leave these out with --skip-bad")
    if not photos:
        raise UserError(f"{where}: nothing is left to prepare. {problems.describe() or 'It names no photo'}")
    writer.check_space(map(bytes_of, photos))
    findings = Findings()
    for image, rows in survey(images, findings, problems, len(photos), exif_annotated, progress):
        writer.add_image(**image)
        for row in rows:
            writer.add_expression(**row)
    if not skip_bad:
        problems.raise_if_any(where, "Mend the files, or leave these out with --skip-bad")
    if not findings.expressions:
        raise UserError(f"{where}: nothing is left to prepare. {problems.describe()}")
    findings.skipped = problems.counts()
    return writer.finish(sources, prepared_with), findings


def survey(
    images: Iterable[SourceImage],
    findings: Findings,
    problems: Problems,
    total: int,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    progress: Progress | None = None,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Reads images and places their masks: of each that can be used, what `DataStoreWriter` takes of it and of its
    expressions. `findings` and `problems` are filled on the way; `total` is the number of images, for `progress`.
    """
    photos = ((image, image.path) for image in images)
    for done, (source, data, seen) in enumerate(examined(photos, total), start=1):
        if progress is not None:
            progress(done, total)
        if seen.error is not None:
            findings.undecodable.append(f"{source.image_id}: {seen.error}")
        placed = _place(source, seen, exif_annotated)
        if placed is None:
            if seen.stored is None:
                kind, found = "images cannot be decoded, and nothing tells their size", seen.error
            else:
                kind, found = "images have another size than annotated", f"{seen.stored}, annotated {source.size}"
            problems.add(kind, f"{source.image_id}: {found}{source.where}")
            continue
        if not placed.told and not all(referent.no_target for referent in source.referents):
            (findings.assumed_stored if placed.turn != 1 else findings.assumed_upright).append(source.image_id)
        elif placed.turn != 1:
            findings.turned.append(source.image_id)
        rows = []
        for referent in source.referents:
            try:
                target = _target(referent, placed)
            except ValueError as error:
                problems.add("referents have an unusable mask", f"{referent.ref_id}: {error}{at(referent.where)}")
                continue
            if not referent.no_target and rle.area(target) == 0:
                findings.empty_targets.append(referent.ref_id)
            for expr_id, text in referent.expressions:
                if len(text.split()) > LONG_EXPRESSION:
                    findings.long_expressions.append(expr_id)
                rows.append(
                    {
                        "expr_id": expr_id,
                        "ref_id": referent.ref_id,
                        "image_id": source.image_id,
                        "split": referent.split,
                        "text": text,
                        "target": target,
                        "no_target": referent.no_target,
                        "ann_ids": referent.ann_ids,
                        "category": referent.category,
                    }
                )
        if not rows:
            continue
        findings.images += 1
        findings.expressions += len(rows)
        height, width = placed.upright
        image = {"image_id": source.image_id, "file_name": source.path.name, "height": height, "width": width}
        yield image | {"image": data, "content": seen.content}, rows


def _place(source: SourceImage, seen: Seen, exif_annotated: ExifAnnotated) -> Placement | None:
    """How the annotations lie on the image; None if they were made for another size, or nothing tells any."""
    if seen.stored is None:
        return Placement(source.size, source.size) if source.size else None
    return place(seen.stored, seen.orientation, source.size, exif_annotated)


def _target(referent: Referent, placed: Placement) -> rle.RLE:
    if referent.no_target:
        return rle.empty(*placed.upright)
    mask = referent.target or rle.union(
        [checked_mask(s, *placed.annotated) for s in referent.segmentations], placed.annotated
    )
    if placed.turn != 1:
        mask = rle.encode(turn_upright(rle.decode(mask), placed.turn))
    return mask
