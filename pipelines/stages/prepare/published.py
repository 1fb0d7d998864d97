"""`mail-ris prepare refcoco|refcoco+|refcocog|...`: every published data set that `mail.data.sets` knows."""

import abc
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import tyro

from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.sets import DATA_SETS
from mail.data.sets.definition import Annotations, DataSet
from mail.data.store import DataStore, DataStoreWriter
from mail.errors import UserError
from pipelines.options import LocalPath
from pipelines.stages.prepare.report import Flag, PrepareStage, write
from pipelines.terminal import say


@dataclass(kw_only=True)
class PublishedFiles(PrepareStage, abc.ABC):
    """Where published files are, and how they are read."""

    root: LocalPath
    """Folder that holds the files as they are published (`docs/data-sets.md` has the layouts)."""
    images: LocalPath | None = None
    """Folder of the photos, if it is not where they are published to be in ROOT."""
    strict: Flag = False
    """Fail if the counts per split differ from the published ones (else the difference is only said)."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""
    skip_bad: Flag = False
    """Leave out what cannot be used (missing photos or annotations, empty expressions) and say how much, instead of
    failing."""


@dataclass(kw_only=True)
class PreparePublished(PublishedFiles):
    """Base of the stages that `stage_of` makes."""

    data_set: ClassVar[DataSet]
    split_by: ClassVar[str] = ""

    def plan(self) -> dict[str, Any]:
        found = self._read()
        counts = found.count()
        return {
            "name": found.name,
            "files": [*map(str, found.files), str(found.images)],
            "splits": counts,
            "differences": self.data_set.differences(self.split_by, counts),
        }

    def run(self) -> DataStore:
        found = self._read()
        counts = found.count()
        say(f"{found.files[0]}: {sum(count['refs'] for count in counts.values())} references")
        for line in self.data_set.table(self.split_by, counts):
            say(line)
        different = "; ".join(self.data_set.differences(self.split_by, counts))
        if different and self.strict:
            raise UserError(f"{found.files[0]} is not what was published: {different}")
        if different:
            say(f"not what was published: {different}")
        for line in found.remarks():
            say(line)
        return write(self, found.write_store, self.out, skip_bad=self.skip_bad, exif_annotated=self.exif_annotated)

    def _read(self) -> Annotations:
        found = self.data_set.open(self.root, self.split_by, self.images)
        DataStoreWriter(self.out, found.name)  # refuses to overwrite a finished store
        return found


def stage_of(data_set: DataSet) -> type[PreparePublished]:
    """The stage that prepares a data set; whose split is meant is an option where there are several."""
    name = "Prepare" + data_set.name.replace("+", "-plus").title().replace("-", "")
    body: dict[str, Any] = {"__doc__": data_set.about, "__module__": __name__, "data_set": data_set}
    if (whose := [*data_set.published]) != [""]:
        splits = " or ".join(f"{by} ({', '.join(splits)})" for by, splits in data_set.published.items())
        option = tyro.conf.arg(help=f"Whose split: {splits}.")
        body |= {"__annotations__": {"split_by": Annotated[Literal.__getitem__(tuple(whose)), option]}}
        body |= {"split_by": whose[0]}
    return dataclass(kw_only=True)(type(name, (PreparePublished,), body))


PUBLISHED = {name: stage_of(data_set) for name, data_set in DATA_SETS.items()}
