"""`mail-ris prepare synthetic|scenes`: generated scenes in the published layout, read like RefCOCO or gRefCOCO."""

import contextlib
import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from typing import Any

from mail.data.refer import find_layout, read_refs, write_store
from mail.data.scenes import SceneConfig, write_published_layout
from mail.data.scenes.layout import refs_name
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from pipelines.claiming.claim import Claim
from pipelines.options import LocalTarget
from pipelines.stages.prepare.report import PrepareStage, write
from pipelines.terminal import progress_of, say


@dataclass(kw_only=True)
class PrepareSynthetic(PrepareStage):
    """Generated scenes with expressions like people's, in the published layout, read like RefCOCO."""

    images: int = 1000
    """Number of scenes."""
    seed: int = 0
    """Which scenes: the same seed gives the same ones, and more images only add to them."""
    root: LocalTarget | None = None
    """Keep the published layout (JPEGs, instances.json, refs) in this folder; a temporary one if not given."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """How the scenes look."""

    def plan(self) -> dict[str, Any]:
        if self.images < 1:
            raise UserError(f"--images is {self.images}: at least one scene is needed")
        DataStoreWriter(self.out, self._name)  # refuses to overwrite a finished store
        return {"name": self._name, "images": self.images, "layout": self.root or "a temporary folder, deleted after"}

    def run(self) -> DataStore:
        self.plan()
        with contextlib.ExitStack() as stack:
            root = self.root or stack.enter_context(tempfile.TemporaryDirectory(prefix="mail-scenes-"))
            stack.enter_context(Claim(root, f"the layout {root}", "another --root"))
            say(f"generating {self.images} scenes from seed {self.seed}")
            with progress_of("scenes generated") as progress:
                write_published_layout(root, self.images, self.seed, self.scene, progress)
            layout = find_layout(
                root,
                "synthetic",
                "synthetic",
                name=self._name,
                namespace=self._namespace,
                refs_name=refs_name(self.scene),
            )
            return write(self, write_store, layout, read_refs(layout.refs), self.out)

    @property
    def _name(self) -> str:
        return f"synthetic-{self.seed}"

    @property
    def _namespace(self) -> str:
        """Scenes that look different have different ids, so that no mask table takes one for the other."""
        if self.scene == SceneConfig():
            return f"synthetic/{self.seed}"
        fields = self.scene.record()
        if fields["domain"] == SceneConfig().domain:  # which earlier versions had only
            del fields["domain"]
        config = json.dumps(fields, sort_keys=True)
        return f"synthetic/{self.seed}-{hashlib.sha256(config.encode()).hexdigest()[:8]}"


@dataclass(kw_only=True)
class PrepareScenes(PrepareSynthetic):
    """The benchmark: many more and larger scenes from the generator of `prepare synthetic`."""

    images: int = 20_000
    """Number of scenes."""
    scene: SceneConfig = field(default_factory=lambda: SceneConfig(min_side=224, max_side=320))
    """How the scenes look."""
