"""`mail-ris data verify STORE`: looks after data stores."""

import dataclasses
import json as json_format
from typing import Annotated, Any

import tyro

from mail.data import files
from mail.data.store import DataStore
from mail.data.store_upkeep import verify
from mail.errors import UserError
from pipelines.options import Address, Target
from pipelines.stage import Stage
from pipelines.terminal import done, progress_of, say

SHOWN_PROBLEMS = 20


@dataclasses.dataclass(kw_only=True)
class DataVerify(Stage):
    """Reads every byte of a data store and compares it with the digests that `prepare` wrote."""

    store: Annotated[Address, tyro.conf.Positional]
    """The data store (local or s3://)."""

    json: Target | None = None
    """Also write what was found to this file."""

    def plan(self) -> dict[str, Any]:
        store = DataStore(self.store)
        listed = [*store.image_files, *store.expression_files]
        return {"digest": store.digest, "files": len(listed), "bytes": sum(f.bytes for f in listed)}

    def run(self) -> list[str]:
        if self.json:
            files.check_file_writable(self.json)
        store = DataStore(self.store)
        found = []
        with progress_of("files verified") as progress:
            for wrong in verify(store, progress):
                found.append(wrong)
                if len(found) <= SHOWN_PROBLEMS:
                    say(wrong)
        if self.json:
            report = {"data": self.store, "digest": store.digest, "wrong": found}
            files.write_bytes(*files.resolve(self.json), json_format.dumps(report, indent=2).encode())
        number = len(store.image_files) + len(store.expression_files)
        if found:
            raise UserError(
                f"{self.store}: {len(found)} of {number} files are damaged, first: {found[0]}: copy them again, or "
                "prepare the store again"
            )
        done(f"{self.store}: {number} files, all right")
        return found


DATA: dict[str, type[Stage]] = {"verify": DataVerify}
