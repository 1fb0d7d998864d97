"""`prepare NAME --download DIR`: all files of a data set, fetched several at once, checked and unpacked.

    DIR/downloads.json     of every file that was fetched: address, length, sha256, when, whether it is as published

What is there is not fetched again, nor what a person has put there. The digest of a file that nobody published one of
is trusted when it is fetched for the first time; another file under its name is refused later.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from mail.data import files
from mail.data.sets.remote import RemoteFile
from mail.errors import UserError
from pipelines.claiming.claim import Claim
from pipelines.downloading.transfer import Fetched, fetch, session
from pipelines.downloading.unpack import unpack
from pipelines.terminal import Advance, say

RECORD = "downloads.json"
AT_ONCE = 4
MEGA = 10**6


class Downloads:
    """The folder of downloads, and what is known of the files in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record: dict[str, dict[str, Any]] = {}
        path = folder / RECORD
        if path.exists():
            try:
                self.record = dict(json.loads(path.read_text()))
            except (ValueError, TypeError):
                raise UserError(f"{path} is damaged: delete it, and the files are checked anew") from None

    def has(self, remote: RemoteFile) -> bool:
        """Whether a file is there, unpacked if it is an archive."""
        there = (self.folder / remote.gives).exists() and self.record.get(remote.name, {}).get("unpacked", True)
        return there or (bool(remote.instead) and all(map(self.has, remote.instead)))

    def write(self, remote: RemoteFile, **known: Any) -> None:
        self.record[remote.name] = self.record.get(remote.name, {}) | known
        text = json.dumps(self.record, indent=2, sort_keys=True)
        files.write_bytes(*files.resolve(self.folder / RECORD), text.encode())


def plan(remote: Sequence[RemoteFile], folder: Path, mirror: str | None) -> list[dict[str, Any]]:
    """What of every file would be done, ready for JSON."""
    downloads = Downloads(folder)
    own = [] if mirror is None else [mirror]
    return [
        {
            "file": file.name,
            "there": downloads.has(file),
            "from": [*own, *file.addresses] or file.by_hand,
            "bytes": file.bytes,
            "sha256": file.sha256,
            "else": [other.addresses[0] for other in file.instead],
        }
        for file in remote
    ]


def download(remote: Sequence[RemoteFile], folder: Path, mirror: str | None = None, strict: bool = False) -> None:
    """Fetches what is not there.

    Args:
        mirror: address of a folder with files of the same names, which is asked first.
        strict: refuse a file of the mirror's that is not the published one.

    Raises:
        UserError: files cannot be had, each with the reason; the others are there then.
    """
    files.check_writable(folder)
    with Claim(folder, f"the downloads in {folder}", "another --download") as claim:
        downloads = Downloads(folder)
        missing = [file for file in remote if not downloads.has(file)]
        if strict and (own := [f.name for f in remote if downloads.record.get(f.name, {}).get("published") is False]):
            raise UserError(
                f"{folder}: {', '.join(own)} came from a mirror and is not the published file: delete it, "
                f"what was unpacked of it, and its entry in {RECORD}"
            )
        for file in remote:
            if file not in missing:
                say(f"{file.gives} is there already")
        if missing:
            with Advance("MB downloaded", 0) as show:
                work = _Work(downloads, mirror, strict, claim.alive, show)
                errors = asyncio.run(work.all(missing))
            for other in [error for error in errors if not isinstance(error, UserError)]:
                raise other
            if errors:
                raise UserError("; ".join(map(str, errors)))


class _Work:
    """A download that is going on."""

    def __init__(
        self, downloads: Downloads, mirror: str | None, strict: bool, alive: Callable[[], None], show: Advance
    ):
        self.downloads, self.mirror, self.strict, self.alive, self.show = downloads, mirror, strict, alive, show
        self.sizes: dict[str, tuple[int, int]] = {}
        self.gate = asyncio.Semaphore(AT_ONCE)

    async def all(self, wanted: Sequence[RemoteFile]) -> list[BaseException]:
        """Fetches them all, whatever becomes of some; what went wrong."""
        async with session() as client:
            done = await asyncio.gather(*(self.one(client, file) for file in wanted), return_exceptions=True)
        return [error for error in done if isinstance(error, BaseException)]

    async def one(self, client: aiohttp.ClientSession, remote: RemoteFile) -> None:
        if self.downloads.has(remote):
            return
        target = self.downloads.folder / remote.name
        if not target.exists():
            if not remote.addresses and self.mirror is None:
                raise UserError(f"{remote.gives} is not for a program to fetch: {remote.by_hand}, and put it there")
            try:
                async with self.gate:
                    found = await fetch(client, remote, self.downloads.folder, self._heard(remote.name), self.mirror)
            except UserError as error:
                if not remote.instead:
                    raise UserError(f"{error}. {remote.by_hand}".removesuffix(". ")) from None
                say(f"{error}. Fetching a mirror of another form instead")
                await asyncio.gather(*(self.one(client, file) for file in remote.instead))
                return
            self._keep(remote, target, found)
        if remote.into is not None:
            say(f"unpacking {remote.name}")
            self.downloads.write(remote, unpacked=False)
            await asyncio.to_thread(unpack, target, self.downloads.folder / remote.into, self.alive)
            if not (self.downloads.folder / remote.gives).exists():
                raise UserError(f"{target} does not hold {remote.gives}: it is another archive than expected")
            self.downloads.write(remote, unpacked=True)

    def _keep(self, remote: RemoteFile, target: Path, found: Fetched) -> None:
        """Writes down what was fetched, and says whether it is what was published, or what it was before."""
        before = self.downloads.record.get(remote.name, {}).get("sha256")
        if found.published is None and before not in (None, found.sha256):
            target.unlink()
            raise UserError(
                f"{remote.name} is another file than it was: sha256 {found.sha256[:12]}..., {before[:12]}... before. "
                f"If that is right, delete its entry in {self.downloads.folder / RECORD}"
            )
        if found.published is False and self.strict:
            target.unlink()
            raise UserError(f"{found.address} is not the published file: sha256 {remote.sha256} is published")
        checked = {True: "as published", None: "nobody published one: written down", False: "NOT the published file"}
        known = {"address": found.address, "bytes": found.bytes, "sha256": found.sha256, "published": found.published}
        self.downloads.write(remote, **known, fetched=datetime.now(UTC).isoformat(timespec="seconds"))
        megabytes = f"{found.bytes / MEGA:,.1f} MB"
        say(f"{remote.name}: {megabytes} from {found.address}, sha256 {found.sha256[:12]} ({checked[found.published]})")

    def _heard(self, name: str) -> Callable[[int, int | None], None]:
        def heard(done: int, total: int | None) -> None:
            self.alive()
            self.sizes[name] = (done, done + MEGA if total is None else total)
            all_done, all_total = map(sum, zip(*self.sizes.values(), strict=True))
            self.show.total = -(-all_total // MEGA)
            going_on = sorted(name for name, (part, whole) in self.sizes.items() if part < whole)
            self.show(all_done // MEGA, beside=", ".join(going_on))

        return heard
