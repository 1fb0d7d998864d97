"""`mail-ris prepare custom`: your own photos and expressions."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mail.data.custom import read_expressions, write_store
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.store import DataStore, DataStoreWriter
from pipelines.options import LocalPath
from pipelines.stages.prepare.report import Flag, PrepareStage, write


@dataclass(kw_only=True)
class PrepareCustom(PrepareStage):
    """Your own data: a JSON Lines file of expressions with polygons or run lengths, and a folder of photos.

    A line is {"expr_id", "image", "text", "split", and "polygons" or "rle" or "no_target": true}.
    """

    expressions: LocalPath
    """JSON Lines file, one expression a line."""
    images: LocalPath
    """Folder that the lines' "image" is relative to."""
    name: str = "custom"
    """Name of the data set, and the beginning of its ids."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""
    skip_bad: Flag = False
    """Leave out missing photos and unusable masks and say how many, instead of failing."""

    def plan(self) -> dict[str, Any]:
        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        expressions = read_expressions(self.expressions)
        splits = Counter(referent.split for _, referent in expressions)
        return {"name": self.name, "images": len({image for image, _ in expressions}), "expressions": dict(splits)}

    def run(self) -> DataStore:
        inputs = (self.expressions, self.images, self.out)
        return write(
            self, write_store, *inputs, name=self.name, skip_bad=self.skip_bad, exif_annotated=self.exif_annotated
        )
