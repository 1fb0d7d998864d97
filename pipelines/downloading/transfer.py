"""Gets a file over HTTP, from the first of several addresses that has it, and goes on where an earlier try ended.

    FOLDER/refcoco.zip.part         what came so far
    FOLDER/refcoco.zip.part.json    of which address, and which version (ETag) of what length it has

A try that is cut, or hears nothing for a minute, is repeated from where it ended (RFC 9110, Range and If-Range); a
server that knows no ranges, or has another version by now, sends the file from its beginning. An address that does not
have the file, or has another than was published, is left for the next one.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from mail import __version__
from mail.data import files
from mail.data.sets.remote import RemoteFile
from mail.errors import UserError
from mail.inventory import flush, make_folder

STALL_SECONDS = 60.0  # without a byte
TRIES = 5  # in a row that bring nothing new
UNREACHED = 2  # tries of a server that does not answer at all
UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
CONNECT_SECONDS = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
CHUNK = 2**20

Heard = Callable[[int, int | None], None]
"""Is told how many bytes of a file are there, and of how many, if that is known."""


class _NotHere(Exception):
    """An address does not have the file; says what it answered."""


class _Cut(Exception):
    """A try ended early; says how."""


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched. `published` tells whether it is the published one; None where nobody published it."""

    address: str
    bytes: int
    sha256: str
    published: bool | None


def session() -> aiohttp.ClientSession:
    """For all files of a download; proxies are those of the environment."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
    headers = {"User-Agent": f"mail-ris/{__version__}", "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(timeout=timeout, trust_env=True, headers=headers)


async def fetch(
    client: aiohttp.ClientSession, remote: RemoteFile, folder: Path, heard: Heard, mirror: str | None = None
) -> Fetched:
    """Fetches a file to FOLDER/NAME.

    Args:
        mirror: address of a folder that is asked first. What it has is taken, though it be another file than published.

    Raises:
        UserError: no address has it; says what each answered. Or it does not fit onto the disk.
        OSError: it cannot be written; what came so far stays.
    """
    target = folder / remote.name
    make_folder(target.parent)
    reasons = []
    own = [] if mirror is None else [f"{mirror.rstrip('/')}/{remote.name}"]
    for address in [*own, *remote.addresses]:
        checked = address not in own
        try:
            digest = await _fetch_from(client, address, target, remote if checked else None, heard)
        except _NotHere as reason:
            reasons.append(f"{address} {reason}")
            continue
        same = None if remote.sha256 is None else digest == remote.sha256
        part = _part(target)
        part.replace(target)
        _state(part).unlink(missing_ok=True)
        flush(target)
        flush(target.parent)
        return Fetched(address, target.stat().st_size, digest, same)
    raise UserError(
        f"{remote.name} cannot be fetched: {'; '.join(reasons)}. The same command goes on with what is there; or get "
        f"the file in another way, put it at {target}, and give the command again"
    )


async def _fetch_from(
    client: aiohttp.ClientSession, address: str, target: Path, published: RemoteFile | None, heard: Heard
) -> str:
    """Fetches a file's part in full from one address; its sha256."""
    part, idle, pause = _part(target), 0, FIRST_PAUSE
    while True:
        before = part.stat().st_size if part.exists() else 0
        begun = None
        try:
            begun = await _attempt(client, address, part, published, heard)
        except (TimeoutError, _Cut, aiohttp.ClientError, ConnectionError) as error:
            idle = 0 if part.exists() and part.stat().st_size > before else idle + 1
            if idle >= (UNREACHED if isinstance(error, UNREACHABLE) else TRIES):
                raise _NotHere(f"breaks off: {_explained(error)}") from None
            if idle:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            continue
        digest = await asyncio.to_thread(files.sha256_file, part)
        wanted = published.sha256 if published is not None else None
        if wanted in (None, digest):
            return digest
        _discard(part)
        if not begun:  # else it may be of two versions: once more from the beginning
            raise _NotHere(f"has another file: its sha256 is {digest[:12]}..., {wanted[:12]}... is published")


async def _attempt(
    client: aiohttp.ClientSession, address: str, part: Path, published: RemoteFile | None, heard: Heard
) -> int:
    """One request; gives where it went on from, and raises `_Cut` if the file is not whole afterwards."""
    state = _read_state(part)
    begun = part.stat().st_size if part.exists() and state.get("address") == address else 0
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    if begun and state.get("version"):
        headers["If-Range"] = state["version"]
    async with client.get(address, headers=headers) as response:
        total = _length(response, begun)
        if response.status == 416 or (response.status == 206 and total is None):
            if begun == state.get("total"):
                return begun  # it is there in full
            _discard(part)
            raise _Cut("it has another file than before")
        if response.status in (408, 425, 429) or response.status >= 500:
            raise _Cut(f"it answers {response.status} {response.reason}")
        if response.status not in (200, 206):
            raise _NotHere(f"answers {response.status} {response.reason}")
        if response.content_type == "text/html":
            raise _NotHere("answers with a web page instead of the file")
        if published is not None and None not in (published.bytes, total) and published.bytes != total:
            raise _NotHere(f"has another file: of {total:,} bytes, {published.bytes:,} are published")
        begun = begun if response.status == 206 else 0
        files.check_writable(part.parent, (total or 0) - begun, part.stem)
        version = response.headers.get("ETag", "")
        known = {"address": address, "version": "" if version.startswith("W/") else version, "total": total}
        _state(part).write_text(json.dumps(known))
        done = begun
        try:
            with open(part, "r+b" if begun else "wb") as file:
                file.seek(begun)
                async for chunk in response.content.iter_chunked(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    heard(done, total)
        except OSError as error:
            if isinstance(error, ConnectionError | aiohttp.ClientError | TimeoutError):
                raise
            raise OSError(error.errno, error.strerror, str(part)) from None
    if total is not None and done != total:
        raise _Cut(f"it ended after {done:,} of {total:,} bytes")
    return begun


def _length(response: aiohttp.ClientResponse, begun: int) -> int | None:
    """The length of the whole file, None if it is not told, or the answer begins elsewhere than was asked for."""
    if response.status != 206:
        return response.content_length
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return int(told[2]) if told and int(told[1]) == begun else None


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _read_state(part: Path) -> dict:
    try:
        return dict(json.loads(_state(part).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _explained(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"nothing was heard for {STALL_SECONDS:.0f} s"
    return str(error) or type(error).__name__
