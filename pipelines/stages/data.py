"""`mail-ris data show|diff|verify`: looks at data stores, and after them.

mail-ris data show runs/own --out runs/own-sheet
mail-ris data diff runs/own runs/own2
"""

import dataclasses
import json as json_format
from typing import Annotated, Any

import tyro

from mail import addresses
from mail.data import files
from mail.data.store import DataStore
from mail.data.store_diff import difference
from mail.data.store_upkeep import verify
from mail.data.summary import lines, summarize
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
            _write_json(self.json, report)
        number = len(store.image_files) + len(store.expression_files)
        if found:
            raise UserError(
                f"{self.store}: {len(found)} of {number} files are damaged, first: {found[0]}: copy them again, or "
                "prepare the store again"
            )
        done(f"{self.store}: {number} files, all right")
        return found


@dataclasses.dataclass(kw_only=True)
class DataShow(Stage):
    """What a data store holds, in figures, and as a contact sheet of things with their masks and sentences."""

    store: Annotated[Address, tyro.conf.Positional]
    """The data store (local or s3://)."""

    out: Target | None = None
    """Folder for the contact sheet: contact.png, and contact.html with more of it."""
    most: int = 240
    """Things on contact.html, of all splits alike; contact.png has a tenth of them."""
    seed: int = 0
    """Which things."""
    json: Target | None = None
    """Also write the figures to this file."""

    def plan(self) -> dict[str, Any]:
        store = DataStore(self.store)
        return {"digest": store.digest, "images": store.manifest["image_count"], "splits": store.splits}

    def run(self) -> dict[str, Any]:
        from mail.report.contact_sheet import write_page, write_png
        from mail.report.store_cells import cells, chosen

        if self.most < 1:
            raise UserError(f"--most is {self.most}: at least one thing is needed")
        _check_writable(self.out, self.json)
        store = DataStore(self.store)
        found = summarize(store)
        facts = list(lines(found))
        for line in facts:
            print(line)
        if self.json:
            _write_json(self.json, found)
        if self.out:
            with progress_of("things drawn") as progress:
                many = cells(store, chosen(store, self.most, self.seed), progress)
            few = cells(store, chosen(store, max(1, self.most // 10), self.seed))
            title = f"{store.name}: {len(many)} of {found['refs']} things, digest {store.digest[:12]}"
            write_page(addresses.join(self.out, "contact.html"), title, facts[1:], many)
            write_png(addresses.join(self.out, "contact.png"), title.replace(f"{len(many)} of", f"{len(few)} of"), few)
            done(f"wrote {self.out}/contact.png and {self.out}/contact.html")
        return found


@dataclasses.dataclass(kw_only=True)
class DataDiff(Stage):
    """What changed from one data store to another: images, expressions, targets, splits."""

    stores: Annotated[tuple[Address, Address], tyro.conf.Positional]
    """The first data store and the second (local or s3://)."""

    json: Target | None = None
    """Also write what changed, all of it, to this file."""

    def plan(self) -> dict[str, Any]:
        return {"digests": [DataStore(uri).digest for uri in self.stores]}

    def run(self) -> dict[str, Any]:
        _check_writable(None, self.json)
        first, second = map(DataStore, self.stores)
        found = difference(first, second)
        if found:
            for line in found.lines():
                print(line)
        report = {"stores": list(self.stores), "digests": [first.digest, second.digest], **dataclasses.asdict(found)}
        if self.json:
            _write_json(self.json, report)
        named = f"{first.name} {first.digest[:12]} and {second.name} {second.digest[:12]}"
        done(f"{named} {'differ' if found else 'hold the same'}")
        return report


def _check_writable(folder: str | None, file: str | None) -> None:
    if folder is not None:
        files.check_writable(folder)
    if file is not None:
        files.check_file_writable(file)


def _write_json(file: str, report: dict[str, Any]) -> None:
    files.write_bytes(*files.resolve(file), json_format.dumps(report, indent=2).encode())


DATA: dict[str, type[Stage]] = {"verify": DataVerify, "show": DataShow, "diff": DataDiff}
