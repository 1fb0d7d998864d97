"""The formats of own data, and which of them a file is in: found by what it holds, whatever it is called."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mail.addresses import Place
from mail.data.coco import CocoInstances
from mail.data.custom import coco_export, csv_file, json_file, json_lines, label_studio, labelme
from mail.data.custom.described import Described
from mail.data.custom.source import Reading, SourceFile, open_source
from mail.errors import UserError, first_few


@dataclass(frozen=True)
class Format:
    """`fits` says whether a file is in it; `read` takes all such files at once."""

    what: str
    fits: Callable[[SourceFile], bool]
    read: Callable[[Sequence[SourceFile], Reading], Iterator[Described]]


FORMATS = {  # in the order in which a file is asked: the particular ones first
    "label-studio": Format("Label Studio's JSON", label_studio.fits, label_studio.read),
    "labelme": Format("LabelMe's JSON, one file a photo", labelme.fits, labelme.read),
    "coco": Format("COCO's JSON with sentences, as CVAT and Roboflow export it", coco_export.fits, coco_export.read),
    "jsonl": Format("JSON Lines", json_lines.fits, json_lines.read),
    "json": Format("a JSON array of expressions", json_file.fits, json_file.read),
    "csv": Format("CSV", csv_file.fits, csv_file.read),
}


@dataclass
class Own:
    """All that somebody's files say."""

    described: list[Described]
    reading: Reading
    files: list[SourceFile]
    remarks: list[str]


def read_expressions(
    place: Place,
    *,
    format: str | None = None,
    instances: str | None = None,
    text_field: str | None = None,
    strict: bool = True,
) -> Own:
    """All that a file, or a folder of files, says.

    Args:
        place: a local path or `s3://`.
        format: a name in `FORMATS`; found by the content if not given.
        instances: the COCO file that ids of annotations are of.
        text_field: the name of the field with the sentence, where it has another than usual.
        strict: what cannot be used is an error; else it is only added to the problems.

    Raises:
        UserError: there is nothing that can be read; or names every line or entry that lacks something or has it in
            another form.
    """
    files, folder = open_source(place)
    reading = Reading(folder, text_field, CocoInstances(instances) if instances else None)
    by_format: dict[str, list[SourceFile]] = {}
    for file in files:
        by_format.setdefault(format or format_of(file), []).append(file)
    unknown = by_format.pop("", [])
    broken = {file.name: why for file in unknown if (why := file.why_no_json())}
    for name, why in broken.items():
        reading.problems.add("files cannot be read", f"{name}: {why}")
    unknown = [file for file in unknown if file.name not in broken]
    if not by_format and broken:
        reading.problems.raise_if_any(place, "Export them again")
    if not by_format:
        known = ", ".join(f"{entry.what} ({name})" for name, entry in FORMATS.items())
        raise UserError(f"{place} is in no format that is known ({known}): say which with --format")
    described = [found for name, group in by_format.items() for found in FORMATS[name].read(group, reading)]
    if strict:
        reading.problems.raise_if_any(place, "`mail-ris prepare check` prints every one")
    if not described and not reading.problems.names:
        raise UserError(f"{place} has no expressions: {_nothing(by_format, reading)}")
    remarks = reading.remarks()
    if unknown:
        remarks.append(f"left out: {len(unknown)} files in no known format ({first_few([f.name for f in unknown])})")
    return Own(described, reading, files, remarks)


def format_of(file: SourceFile) -> str:
    """The name of the format that a file is in, "" for none."""
    return next((name for name, entry in FORMATS.items() if entry.fits(file)), "")


def _nothing(by_format: dict[str, list[SourceFile]], reading: Reading) -> str:
    if reading.silent:
        return f"nothing is said about any of its {reading.silent} objects (--text-field names another field)"
    if reading.unannotated:
        return f"none of its {reading.unannotated} tasks is annotated"
    return "every line is one, as JSON" if "jsonl" in by_format else "it is empty"
