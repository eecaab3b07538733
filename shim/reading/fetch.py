"""Pictures that a client names by an http(s) address, from hosts that the operator allows.

The address comes from a stranger, so it must not reach what only this machine can: a host's name is resolved once,
every address found must be public, and exactly those are then connected to. A redirect is checked like a first address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from starlette.datastructures import UploadFile
from yarl import URL

from shim.limits import FETCH_SECONDS, MAX_FETCHED_BYTES, MAX_REDIRECTS
from shim.reading.spool import Share, refused_when_full
from shim.reading.uploads import Linked

CHUNK_BYTES = 2**16
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"User-Agent": "qwen-image-edit-server", "Accept": "image/*", "Accept-Encoding": "identity"}
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
TUNNELS = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))  # Teredo, 6to4: to any IPv4 address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    if address.version == 6 and not _is_unicast(address):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_private)


def _is_unicast(address: Address) -> bool:
    """IPv4 addresses that are mapped or translated to IPv6 lie outside of the range."""
    return address in GLOBAL_UNICAST and not any(address in tunnel for tunnel in TUNNELS)


async def fetch_all(
    uploads: Iterable[UploadFile],
    hosts: Collection[str],
    share: Share,
    may_connect: Callable[[Address], bool] = is_public,
) -> None:
    """Fills the files of uploads that have an address; `hosts` are HOST or HOST:PORT.

    Raises InvalidInput, or ModelNotReady where `share` has no room for it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for upload in uploads:
                if isinstance(upload, Linked) and upload.address:
                    group.create_task(Fetch(upload, hosts, share, may_connect).run())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


class Pinned(AbstractResolver):
    """Answers with addresses that were resolved, and checked, before."""

    def __init__(self, results: list[ResolveResult]) -> None:
        self._results = results

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return self._results

    async def close(self) -> None: ...


class Fetch:
    """One picture: its redirects, then its bytes."""

    def __init__(
        self, upload: Linked, hosts: Collection[str], share: Share, may_connect: Callable[[Address], bool]
    ) -> None:
        self._upload = upload
        self._hosts = hosts
        self._share = share
        self._may_connect = may_connect

    async def run(self) -> None:
        assert self._upload.address
        url = self._parse(self._upload.address)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._follow(url)
        except TimeoutError as error:
            raise self._upload.refusal(f"{url.host} did not send it within {FETCH_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._upload.refusal(f"it cannot be fetched from {url.host}") from error
        self._upload.address = None

    async def _follow(self, url: URL) -> None:
        for _ in range(MAX_REDIRECTS + 1):
            self._check_host(url)
            async with self._get(url) as response:
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or not location:
                    return await self._save(response)
            url = self._parse(location, base=url)
        raise self._upload.refusal(f"{url.host} redirects more than {MAX_REDIRECTS} times")

    def _parse(self, address: str, base: URL | None = None) -> URL:
        try:
            url = base.join(URL(address)) if base else URL(address)
            has_port = url.port is not None
        except ValueError as error:
            raise self._upload.refusal("the address is malformed") from error
        if url.scheme not in ("http", "https") or not url.raw_host or not has_port:
            raise self._upload.refusal("only http and https addresses with a host are fetched")
        if url.user is not None or url.password is not None:
            raise self._upload.refusal("an address must hold neither user nor password")
        return url

    def _check_host(self, url: URL) -> None:
        if not self._hosts:
            problem = "this server fetches no pictures (its ALLOWED_IMAGE_HOSTS is empty); send a data: URL or a file"
            raise self._upload.refusal(problem)
        named = {url.host_port_subcomponent, f"{url.host_subcomponent}:{url.port}"}
        if not named & set(self._hosts):
            host = f"{url.host_subcomponent}:{url.port}"
            raise self._upload.refusal(f"{host} is not one of this server's ALLOWED_IMAGE_HOSTS")

    @asynccontextmanager
    async def _get(self, url: URL) -> AsyncIterator[aiohttp.ClientResponse]:
        connector = aiohttp.TCPConnector(resolver=Pinned(await self._resolve(url)), use_dns_cache=False)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy of the environment would resolve the name again
            auto_decompress=False,
            headers=HEADERS,
        )
        async with session, session.get(url, allow_redirects=False) as response:
            yield response

    async def _resolve(self, url: URL) -> list[ResolveResult]:
        assert url.raw_host
        assert url.port
        found = await asyncio.get_running_loop().getaddrinfo(url.raw_host, url.port, type=socket.SOCK_STREAM)
        for _, _, _, _, (address, *_) in found:
            if not self._may_connect(ipaddress.ip_address(address)):
                raise self._upload.refusal(f"{url.host} has an address that is not public")
        return [
            ResolveResult(
                hostname=url.raw_host,
                host=str(address),
                port=url.port,
                family=family,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for family, _, proto, _, (address, *_) in found
        ]

    async def _save(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise self._upload.refusal(f"{response.url.host} answered {response.status}")
        received = 0
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            received += len(chunk)
            if received > MAX_FETCHED_BYTES:
                raise self._upload.refusal(f"the picture is larger than {MAX_FETCHED_BYTES} bytes")
            self._share.add(len(chunk))
            with refused_when_full():  # else it would be the host's fault
                await self._upload.write(chunk)
