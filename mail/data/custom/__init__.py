"""Reads anyone's own referring data: sentences and masks as people have them, beside a folder of photos.

One file a format (`formats.FORMATS`), each of which gives what is said about one thing in one photo
(`described.Described`); `assembly` finds the photos, makes the ids that are missing and draws the splits. Masks lie on
the picture as a viewer shows it, unless the size of run lengths or `exif_annotated` says that they were made for the
unrotated pixels. A null is the same as a value that is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mail import addresses
from mail.data import files
from mail.data.custom.assembly import Assembly, assemble
from mail.data.custom.formats import FORMATS, Own, read_expressions
from mail.data.custom.source import folder_of
from mail.data.custom.splits import DEFAULT, shares_of
from mail.data.ingest import Findings, Progress, ingest, source_record, survey
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.photos import PhotoFolder
from mail.data.problems import Problems
from mail.data.schema import in_order
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter

__all__ = ["DEFAULT", "FORMATS", "Checked", "check", "photos_beside", "read_expressions", "shares_of", "write_store"]


def write_store(
    expressions: addresses.Place,
    images: addresses.Place,
    out: str,
    *,
    name: str,
    format: str | None = None,
    instances: str | None = None,
    text_field: str | None = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    prepared_with: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[DataStore, Findings]:
    """Writes the expressions and the photos that they name as a data store; ids begin with `name`.

    Args:
        expressions: a file, or a folder of files; images: the folder of the photos. Local or `s3://`.
        format, instances, text_field: see `read_expressions`.
        shares, seed: of the splits that are drawn where none is given.
        skip_bad: leave out photos and masks that cannot be used, and count them.

    Raises:
        UserError: lines, photos or masks that cannot be used.
    """
    writer, problems = DataStoreWriter(out, name), Problems()
    own = read_expressions(expressions, format=format, instances=instances, text_field=text_field)
    found = _assembled(own, images, expressions, name, shares, seed, problems)
    store, findings = ingest(
        found.source_images(),
        writer,
        where=expressions,
        photos=found.photos.values(),
        problems=problems,
        sources=[source_record(file.name, file.data) for file in own.files] + _instances_record(instances),
        skip_bad=skip_bad,
        exif_annotated=exif_annotated,
        prepared_with=prepared_with,
        progress=progress,
    )
    findings.remarks = found.remarks
    return store, findings


@dataclass
class Checked:
    """What a store of some expressions would hold, and everything that stands against writing it.

    Attributes:
        splits: images, refs and expressions of each, as in a store.
    """

    problems: Problems
    findings: Findings
    splits: dict[str, dict[str, int]] = field(default_factory=dict)


def check(
    expressions: addresses.Place,
    images: addresses.Place,
    *,
    name: str,
    format: str | None = None,
    instances: str | None = None,
    text_field: str | None = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    exif_annotated: ExifAnnotated = AS_SHOWN,
    progress: Progress | None = None,
) -> Checked:
    """Reads all that `write_store` would, to its end, and writes nothing.

    Raises:
        UserError: there is nothing that can be read at all.
    """
    own = read_expressions(expressions, format=format, instances=instances, text_field=text_field, strict=False)
    problems, findings = own.reading.problems, Findings()
    found = _assembled(own, images, expressions, name, shares, seed, problems)
    counted: dict[str, tuple[set[str], set[str], list[str]]] = {}
    for image, rows in survey(found.source_images(), findings, problems, len(found.photos), exif_annotated, progress):
        for row in rows:
            photos, refs, ids = counted.setdefault(row["split"], (set(), set(), []))
            photos.add(image["image_id"])
            refs.add(row["ref_id"])
            ids.append(row["expr_id"])
    findings.remarks = found.remarks
    splits = {
        split: dict(zip(("images", "refs", "expressions"), map(len, counted[split]), strict=True))
        for split in in_order(counted)
    }
    return Checked(problems, findings, splits)


def photos_beside(expressions: addresses.Place) -> str:
    """The folder of photos of whoever names none: that of the expressions."""
    address = addresses.absolute(expressions)
    return address if files.is_folder(address) else folder_of(address)


def _assembled(
    own: Own,
    images: addresses.Place,
    expressions: addresses.Place,
    name: str,
    shares: Mapping[str, float] | None,
    seed: int,
    problems: Problems,
) -> Assembly:
    folder = PhotoFolder(addresses.absolute(images), expressions)
    return assemble(own, folder, name, shares or shares_of(DEFAULT), seed, problems)


def _instances_record(instances: str | None) -> list[dict[str, Any]]:
    if instances is None:
        return []
    filesystem, path = files.resolve(instances)
    return [source_record(path.rpartition("/")[2], files.read_bytes(filesystem, path))]
