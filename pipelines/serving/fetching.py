"""Photos from other hosts: only from those that are allowed, within limits, never from inside of the own network.

Names are looked up once, and the connection goes to the addresses that were looked at: a name that points elsewhere a
moment later does not help. Redirects are followed to allowed hosts only, each looked at anew.
"""

import ipaddress
import socket
from collections.abc import Collection

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipelines.serving.refused import Refused

SECONDS = 10.0
REDIRECTS = 3


class PublicResolver(AbstractResolver):
    """Gives the public addresses of a name; OSError if it has none."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = [each for each in await self._inner.resolve(host, port, family) if is_public(each["host"])]
        if not found:
            raise OSError(None, f"{host} is no public host")
        return found

    async def close(self) -> None:
        await self._inner.close()


def is_public(address: str) -> bool:
    """Whether an address is one of the internet: not of this machine, its network, or a cloud's own services."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    return mapped.is_global and not mapped.is_multicast


async def fetch(url: str, hosts: Collection[str], most: int, resolver: AbstractResolver | None = None) -> bytes:
    """The file at an address.

    Args:
        hosts: that are allowed, by name. most: bytes.
        resolver: default: `PublicResolver`.

    Raises:
        Refused: the host is not allowed, nothing is there, or too much of it.
    """
    try:
        target = URL(url)
        connector = aiohttp.TCPConnector(resolver=resolver or PublicResolver(), force_close=True)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            for _ in range(1 + REDIRECTS):
                _check(target, hosts)
                async with session.get(target, allow_redirects=False) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        target = target.join(URL(response.headers.get("Location", "")))
                        continue
                    if response.status != 200:
                        raise Refused(422, "not_fetched", f"{target.host} answers {response.status}")
                    return await read_bounded(response, most)
    except (aiohttp.ClientError, OSError, ValueError):
        # no detail: what is told of a host would help to look for others
        raise Refused(422, "not_fetched", "the photo cannot be got from its address") from None
    raise Refused(422, "not_fetched", f"more than {REDIRECTS} redirects")


def _check(target: URL, hosts: Collection[str]) -> None:
    if target.scheme not in ("http", "https") or target.host is None or target.user is not None:
        raise Refused(422, "bad_url", "an address of a photo begins with https:// and a host")
    if target.host.lower() not in hosts:
        raise Refused(422, "host_not_allowed", "photos are not got from this host: send the file itself")
    try:
        public = is_public(target.host)
    except ValueError:
        return  # a name: the resolver looks at what it points to
    if not public:
        raise Refused(422, "host_not_allowed", "photos are not got from private addresses")


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body of an answer. Raises Refused where it has more than `most` bytes."""
    data = bytearray()
    async for piece in response.content.iter_chunked(2**16):
        data += piece
        if len(data) > most:
            raise Refused(413, "too_large", f"a photo may have {most:,} bytes at most")
    return bytes(data)
