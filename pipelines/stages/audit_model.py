"""`mail-ris models audit MODEL`: which ingredient of a model may have seen which evaluation images."""

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mail import lineage
from mail.data import files
from mail.data.store import DataStore
from pipelines.options import Address, ModelAddress, Target
from pipelines.registry.models import CHAMPION, MODEL_NAME, SCHEME, resolve_model
from pipelines.stage import Stage
from pipelines.terminal import say


@dataclass(kw_only=True)
class AuditModel(Stage):
    """Shows what a model, its proposer, its pre-trained encoder and its parents saw of each evaluation split."""

    model: Annotated[ModelAddress, tyro.conf.Positional] = f"{SCHEME}{MODEL_NAME}@{CHAMPION}"
    """models:/NAME@ALIAS, models:/NAME/NUMBER, a model folder, or a run's folder."""

    data: tuple[Address, ...] = ()
    """Data stores to look at (default: those that it and its parents were trained on)."""

    json: Target | None = None
    """Also write the audit to this file."""

    def plan(self) -> dict[str, Any]:
        return {"model": str(resolve_model(self.model))}

    def run(self) -> dict[str, Any]:
        from mail.audit import as_text, audit, stores_of

        if self.json:
            files.check_file_writable(self.json)
        folder: Path = resolve_model(self.model)
        origin = lineage.read(folder)
        stores, missing = stores_of(origin) if not self.data else (list(map(DataStore, self.data)), [])
        found = {"model": self.model, **audit(origin, stores, folder), "not_compared": missing}
        print(as_text(found, self.model))
        for line in missing:
            say(line)
        if not stores:
            say("no data store to compare with: name one with --data")
        if self.json:
            files.write_bytes(*files.resolve(self.json), json_format.dumps(found, indent=2).encode())
        return found
