"""`mail-ris prepare refcoco|refcoco+|refcocog|...`: every published data set that `mail.data.sets` knows.

mail-ris prepare refcoco --root data/refer --out runs/refcoco
mail-ris prepare refcoco --download data/refer --out runs/refcoco
"""

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from mail.addresses import is_web, without_secrets
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.sets import DATA_SETS
from mail.data.sets.definition import Annotations, DataSet
from mail.data.sets.remote import PHOTOS, RemoteFile
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from pipelines.ending import EndRequested
from pipelines.options import LocalPath, LocalTarget
from pipelines.stages.prepare.report import Flag, PrepareStage, write
from pipelines.terminal import say


@dataclass(kw_only=True)
class PublishedFiles(PrepareStage, abc.ABC):
    """Where published files are, and how they are read."""

    root: LocalPath | None = None
    """Folder that holds the files as they are published (`docs/data-sets.md` has the layouts), or a mirror's Parquet
    files, or one of those."""
    download: LocalTarget | None = None
    """Folder that they are fetched into first, unless they are there: from their authors, else from mirrors."""
    mirror: str | None = None
    """Address of a folder on a server that --download asks first, for files of the same names."""
    images: LocalPath | None = None
    """Folder of the photos, if it is not where they are published to be in ROOT."""
    strict: Flag = False
    """Fail if the counts per split, or files of --mirror, differ from the published ones (else it is only said)."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""
    skip_bad: Flag = False
    """Leave out what cannot be used (missing photos or annotations, empty expressions) and say how much, instead of
    failing."""

    def _folder(self) -> Path:
        """Where the files are, or will be."""
        folder = self.root if self.download is None else self.download
        if folder is None or None not in (self.root, self.download):
            raise UserError("give --root, the folder of the files, or --download, where they are fetched to")
        if self.mirror is not None and (self.download is None or not is_web(self.mirror)):
            raise UserError(f"--mirror {self.mirror}: it must be an http(s) address, and goes with --download")
        if self.mirror is not None and without_secrets(self.mirror) != self.mirror:
            raise UserError(f"--mirror {self.mirror} holds a secret, and addresses are recorded: name it without")
        return folder


@dataclass(kw_only=True)
class PreparePublished(PublishedFiles):
    """Base of the stages that `stage_of` makes."""

    data_set: ClassVar[DataSet]
    split_by: ClassVar[str] = ""

    def plan(self) -> dict[str, Any]:
        folder = self._folder()
        if self.download is not None:
            from pipelines.downloading.download import plan

            files = plan(self._remote(), folder, self.mirror)
            if not all(file["there"] for file in files):
                return {"name": self.data_set.name, "licence": self.data_set.licence, "downloads": files}
        found = self._read()
        counts = found.count()
        return {
            "name": found.name,
            "files": [*map(str, found.files), str(found.images)],
            "splits": counts,
            "differences": self.data_set.differences(self.split_by, counts),
        }

    def run(self) -> DataStore:
        folder = self._folder()
        DataStoreWriter(self.out, self.data_set.name)  # refuses to overwrite a finished store, before a download
        if self.download is not None:
            from pipelines.downloading.download import download

            say(f"{self.data_set.name}: {self.data_set.licence}")
            download(self._remote(), folder, self.mirror, self.strict)
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

    def tell_kept(self, end: EndRequested) -> None:
        super().tell_kept(end)
        if self.download is not None:
            end.kept += f"; what was fetched into {self.download} is kept"

    def _remote(self) -> list[RemoteFile]:
        """What is to be fetched: without the photos where they are somewhere else."""
        return [file for file in self.data_set.remote if self.images is None or file.into != PHOTOS]

    def _read(self) -> Annotations:
        found = self.data_set.open(self._folder(), self.split_by, self.images)
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
