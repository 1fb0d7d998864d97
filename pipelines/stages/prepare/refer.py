"""`mail-ris prepare refcoco|refcoco+|refcocog|grefcoco`: published data sets in the layout of the REFER API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.published_counts import PUBLISHED, differences
from mail.data.refer import Ref, ReferLayout, count_splits, find_layout, read_refs, shared_images, write_store
from mail.data.store import DataStore, DataStoreWriter
from mail.errors import UserError
from pipelines.options import LocalPath
from pipelines.stages.prepare.report import Flag, PrepareStage, write
from pipelines.terminal import say


@dataclass(kw_only=True)
class _PrepareRefer(PrepareStage):
    dataset: ClassVar[str]
    split_by: str
    root: LocalPath
    """Folder with the layout of the REFER API: ROOT/DATASET/refs(*.p), ROOT/DATASET/instances.json, ROOT/images."""
    images: LocalPath | None = None
    """Folder of the photos, if not ROOT/images/train2014 or ROOT/images/mscoco/images/train2014."""
    strict: Flag = False
    """Fail if the counts per split differ from the published ones (else the difference is only said)."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""
    skip_bad: Flag = False
    """Leave out what cannot be used (missing photos or annotations, empty expressions) and say how much, instead of
    failing."""

    def plan(self) -> dict[str, Any]:
        layout, refs = self._read()
        counts = count_splits(refs)
        return {
            "name": layout.name,
            "files": [str(layout.refs), str(layout.instances), str(layout.images)],
            "splits": counts,
            "differences": differences(layout.dataset, layout.split_by, counts),
        }

    def run(self) -> DataStore:
        layout, refs = self._read()
        say(f"{layout.refs}: {len(refs)} references")
        counts = count_splits(refs)
        for line in count_table(layout.dataset, layout.split_by, counts):
            say(line)
        different = differences(layout.dataset, layout.split_by, counts)
        if different and self.strict:
            raise UserError(f"{layout.refs} is not what was published: {'; '.join(different)}")
        if different:
            say(f"not what was published: {'; '.join(different)}")
        return write_and_report(
            self, layout, refs, self.out, skip_bad=self.skip_bad, exif_annotated=self.exif_annotated
        )

    def _read(self) -> tuple[ReferLayout, list[Ref]]:
        layout = find_layout(self.root, self.dataset, self.split_by, self.images)
        DataStoreWriter(self.out, layout.name)  # refuses to overwrite a finished store
        return layout, read_refs(layout.refs)


@dataclass(kw_only=True)
class PrepareRefcoco(_PrepareRefer):
    """RefCOCO (Yu et al., 2016): short expressions, place words allowed."""

    split_by: Literal["unc", "google"] = "unc"
    """Whose split: unc (train, val, testA, testB) or google (train, val, test)."""
    dataset = "refcoco"


@dataclass(kw_only=True)
class PrepareRefcocoPlus(_PrepareRefer):
    """RefCOCO+ (Yu et al., 2016): no words of absolute place."""

    split_by: Literal["unc"] = "unc"
    """Whose split: unc (train, val, testA, testB)."""
    dataset = "refcoco+"


@dataclass(kw_only=True)
class PrepareRefcocog(_PrepareRefer):
    """RefCOCOg, also G-Ref (Mao et al., 2016): long expressions."""

    split_by: Literal["umd", "google"] = "umd"
    """Whose split: umd (train, val, test, no image in two of them) or google (train, val, split by object)."""
    dataset = "refcocog"


@dataclass(kw_only=True)
class PrepareGrefcoco(_PrepareRefer):
    """gRefCOCO (Liu, Ding, Jiang, 2023): expressions that name several objects, or nothing."""

    split_by: Literal["unc"] = "unc"
    """Whose split: unc (train, val, testA, testB)."""
    dataset = "grefcoco"


def write_and_report(stage: PrepareStage, layout: ReferLayout, refs: list[Ref], out: str, **options: Any) -> DataStore:
    """Writes the store, says what was found on the way, and prints the summary."""
    for line in shared_images(refs):
        say(line)
    return write(stage, write_store, layout, refs, out, **options)


def count_table(dataset: str, split_by: str, found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Lines of a table: what each split holds, and what was published."""
    published = PUBLISHED.get((dataset, split_by), {})
    lines = [f"{'split':8}{'refs':>18}{'expressions':>20}{'images':>18}   (found / published)"]
    for split in dict.fromkeys([*published, *found]):
        cells = []
        for kind in ("refs", "expressions", "images"):
            number = getattr(published[split], kind) if split in published else None
            cells.append(f"{found.get(split, {}).get(kind, 0)} / {'?' if number is None else number}")
        lines.append(f"{split:8}{cells[0]:>18}{cells[1]:>20}{cells[2]:>18}")
    return lines
