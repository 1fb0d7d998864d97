"""`mail-ris prepare refcoco-joint`: RefCOCO, RefCOCO+ and RefCOCOg as one data set to train on."""

from dataclasses import dataclass, fields
from typing import Any

from mail import addresses
from mail.data import files
from mail.data.store import DataStore
from pipelines.options import Target
from pipelines.stages.prepare.mix import PrepareMix
from pipelines.stages.prepare.published import PUBLISHED, PreparePublished, PublishedFiles
from pipelines.terminal import say

PARTS = {"refcoco-unc": "refcoco", "refcoco+-unc": "refcoco+", "refcocog-umd": "refcocog"}  # each by its default split
NAME = "refcoco-joint"


@dataclass(kw_only=True)
class PrepareRefcocoJoint(PublishedFiles):
    """RefCOCO, RefCOCO+ and RefCOCOg (UMD) as one, without any one's evaluation images in another's training."""

    parts: Target | None = None
    """Where the three have data stores of their own, to evaluate each, or get them: PARTS/refcoco-unc, ... OUT-parts if
    not given."""

    def plan(self) -> dict[str, Any]:
        self._folder()
        there, missing = self._parts()
        return {"name": NAME, "there": there, "prepared": {name: stage.plan() for name, stage in missing.items()}}

    def run(self) -> DataStore:
        self._folder()
        there, missing = self._parts()
        for name, place in there.items():
            say(f"{name} is there already: {place}")
        for stage in missing.values():
            stage.run()
        stores = tuple(there.get(name) or missing[name].out for name in PARTS)
        return PrepareMix(stores=stores, out=self.out, name=NAME).run()

    def _parts(self) -> tuple[dict[str, str], dict[str, PreparePublished]]:
        """Those of the three that there is a store of, and the stages that make the others."""
        there: dict[str, str] = {}
        missing: dict[str, PreparePublished] = {}
        options = {field.name: getattr(self, field.name) for field in fields(PublishedFiles)}
        for name, data_set in PARTS.items():
            place = addresses.join(self.parts or f"{self.out}-parts", name)
            filesystem, path = files.resolve(place)
            if files.exists(filesystem, f"{path}/store.json"):
                there[name] = place
            else:
                missing[name] = PUBLISHED[data_set](**options | {"out": place})
        return there, missing
