"""`mail-ris prepare coco-text`: template expressions for any COCO-format instances."""

from dataclasses import dataclass, field
from typing import Any

from mail.data.coco import CocoInstances
from mail.data.coco_text import TextConfig, write_store
from mail.data.orientation import AS_SHOWN, ExifAnnotated
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from pipelines.options import LocalPath
from pipelines.stages.prepare.report import Flag, PrepareStage, write


@dataclass(kw_only=True)
class PrepareCocoText(PrepareStage):
    """Template expressions for any COCO-format instances, each checked to be unambiguous in its image."""

    instances: LocalPath
    """COCO instances.json: polygons or run lengths of every object."""
    images: LocalPath
    """Folder of its photos."""
    name: str = "coco-text"
    """Name of the data set, and the beginning of its expression ids."""
    namespace: str = "coco"
    """Beginning of the image ids. Keep "coco" for COCO's own photos: the leak check knows them by it."""
    text: TextConfig = field(default_factory=TextConfig)
    """How many expressions are made, and of what."""
    exif_annotated: ExifAnnotated = AS_SHOWN
    """Where EXIF turns a photo and its size does not tell: annotated as a viewer shows it, or on the stored pixels."""
    skip_bad: Flag = False
    """Leave out photos that are missing or do not fit their annotations and say how many, instead of failing."""

    def plan(self) -> dict[str, Any]:
        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        if not self.images.is_dir():
            raise UserError(f"there is no folder {self.images}: --images is where the photos are")
        coco = CocoInstances(self.instances)
        counts = {"images": len(coco.images), "instances": len(coco), "categories": len(coco.categories)}
        return {"name": self.name, **counts, "expressions": f"at most {self.text.max_expressions} a referent"}

    def run(self) -> DataStore:
        inputs = (str(self.instances), self.images, self.out)
        names = {"name": self.name, "namespace": self.namespace}
        options = {"config": self.text, "skip_bad": self.skip_bad, "exif_annotated": self.exif_annotated}
        return write(self, write_store, *inputs, **names, **options)
