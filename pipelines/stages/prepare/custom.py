"""`mail-ris prepare custom` and `mail-ris prepare check`: your own photos and expressions."""

import abc
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from mail.data.custom import DEFAULT, Checked, check, photos_beside, shares_of, write_store
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError, on_one_line
from pipelines.options import Address, Target
from pipelines.stage import Stage
from pipelines.stages.prepare.report import Flag, PrepareStage, write
from pipelines.terminal import done, progress_of, say

FormatName = Literal["jsonl", "json", "csv", "label-studio", "labelme", "coco"]


@dataclass(kw_only=True)
class OwnData(Stage, abc.ABC):
    """How somebody's own data is read: what `prepare custom` and `prepare check` have in common."""

    images: Address | None = None
    """Folder that holds the photos, if not the one of the expressions."""
    name: str = "custom"
    """Name of the data set, and the beginning of its ids."""
    format: FormatName | None = None
    """Format of the expressions, if what the file holds does not tell."""
    text_field: str | None = None
    """Field with the sentence, if it has an unusual name."""
    instances: Address | None = None
    """COCO instances.json that ids of annotations (ann_ids) are of."""
    splits: str = DEFAULT
    """Shares of the splits that are drawn, photo by photo, where the file gives none."""
    seed: int = 0
    """Which photos are drawn into which split."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""

    def options(self) -> dict[str, Any]:
        """What reading takes of the config."""
        named = ("name", "format", "text_field", "instances", "seed", "exif_annotated")
        return {key: getattr(self, key) for key in named} | {"shares": shares_of(self.splits)}

    def checked(self, source: str) -> Checked:
        """What is in the file or folder of expressions, and everything that is wrong with it."""
        with progress_of("images read") as progress:
            return check(source, self.images or photos_beside(source), progress=progress, **self.options())


@dataclass(kw_only=True)
class PrepareCustom(OwnData, PrepareStage):
    """Your own data: expressions with masks in any of the formats below, and a folder of photos."""

    expressions: Address
    """File of expressions, or a folder of such files."""
    skip_bad: Flag = False
    """Leave out missing photos and unusable masks and say how many, instead of failing."""

    def plan(self) -> dict[str, Any]:
        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        found = self.checked(self.expressions)
        return {"name": self.name, "splits": found.splits, "problems": found.problems.counts()}

    def run(self) -> DataStore:
        inputs = (self.expressions, self.images or photos_beside(self.expressions), self.out)
        return write(self, write_store, *inputs, skip_bad=self.skip_bad, **self.options())


@dataclass(kw_only=True)
class PrepareCheck(OwnData):
    """What `prepare custom` would find: every problem of your own data at once, and nothing is written."""

    data: Annotated[Address | None, tyro.conf.Positional] = None
    """File of expressions, or a folder of such files."""
    expressions: Address | None = None
    """The same, so that only the word `custom` of a command need change."""
    out: Target | None = None
    """Data store that is meant to be written."""

    def plan(self) -> dict[str, Any]:
        return {"data": self._source, "images": self.images or photos_beside(self._source)}

    def run(self) -> Checked:
        """Ends with 1 where there are problems."""
        if self.out is not None:
            DataStoreWriter(self.out, self.name)
        found = self.checked(self._source)
        for line in found.findings.lines():
            say(line)
        for kind, names in found.problems.most_frequent():
            print(f"{len(names)} {kind}")
            for name in names:
                print(f"  {on_one_line(name)}")
        if found.problems.names:
            done(f"{self._source}: {sum(found.problems.counts().values())} problems")
            raise SystemExit(1)
        splits = ", ".join(
            f"{split} {count['expressions']} on {count['images']} photos" for split, count in found.splits.items()
        )
        done(f"{self._source}: all right, {found.findings.expressions} expressions ({splits})")
        return found

    @property
    def _source(self) -> str:
        given = [place for place in (self.data, self.expressions) if place is not None]
        if len(given) != 1:
            raise UserError("name one file or folder of expressions")
        return given[0]
