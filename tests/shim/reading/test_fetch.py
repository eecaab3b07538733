"""Addresses are fetched from a server on loopback, which only the tests' own predicate lets through."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shim.errors import InvalidInput, ModelNotReady
from shim.reading import fetch
from shim.reading.fetch import Address, fetch_all, is_public
from shim.reading.spool import Share, Spool
from shim.reading.uploads import Linked

SPOOL = Spool(2**20)
Serve = Callable[..., Awaitable[int]]


def is_loopback(address: Address) -> bool:
    return address.is_loopback


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server on 127.0.0.1 whose GET requests the handler answers; returns the port."""
    runners = []

    async def serve(handler: Callable[[web.Request], Any], context: ssl.SSLContext | None = None) -> int:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port: int = runner.addresses[0][1]
        return port

    yield serve
    for runner in runners:
        await runner.cleanup()


async def hello(request: web.Request) -> web.Response:
    return web.Response(body=b"hello")


async def fetched(address: str, *hosts: str, may_connect: Callable[[Address], bool] = is_loopback) -> bytes:
    upload = Linked("url", address)
    with upload.file as file:
        with SPOOL.share() as share:
            await fetch_all([upload], hosts, share, may_connect)
        assert upload.address is None
        file.seek(0)
        return file.read()


async def refusal(address: str, *hosts: str, may_connect: Callable[[Address], bool] = is_loopback) -> str:
    with pytest.raises(InvalidInput) as caught:
        await fetched(address, *hosts, may_connect=may_connect)
    assert caught.value.param == "url"
    return caught.value.message


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes every name resolve to these addresses, one list a question; returns the names asked for."""

    def resolve(*answers: list[str]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            families = {4: socket.AF_INET, 6: socket.AF_INET6}
            return [
                (families[ipaddress.ip_address(address).version], socket.SOCK_STREAM, 6, "", (address, port))
                for address in answers[len(asked) - 1]
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return resolve


PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
NOT_PUBLIC = {
    "this network": "0.0.0.0",
    "loopback": "127.0.0.1",
    "loopback, another": "127.8.9.10",
    "private 10": "10.0.0.1",
    "private 172": "172.31.255.255",
    "private 192": "192.168.1.1",
    "carriers": "100.64.0.1",
    "link-local: clouds' metadata": "169.254.169.254",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "benchmarks": "198.18.0.1",
    "documentation": "203.0.113.1",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v6 unique local": "fd00:ec2::254",
    "v6 link-local": "fe80::1",
    "v6 link-local with a zone": "fe80::1%1",
    "v6 site-local": "fec0::1",
    "v6 multicast": "ff02::1",
    "v6 documentation": "2001:db8::1",
    "mapped": "::ffff:127.0.0.1",
    "mapped public": "::ffff:8.8.8.8",
    "compatible": "::7f00:1",
    "translated": "64:ff9b::7f00:1",
    "6to4": "2002:7f00:1::",
    "teredo": "2001:0:7f00:1::",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC)
def test_every_other_address_is_not(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


async def test_a_picture_is_fetched_from_an_allowed_host(serve: Serve) -> None:
    headers: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        headers.update(request.headers)
        return web.Response(body=b"x" * 3_000_000, headers={"Set-Cookie": "a=b"})

    port = await serve(handler)
    assert await fetched(f"http://localhost:{port}/a%20b.png?c=d#e", f"localhost:{port}") == b"x" * 3_000_000
    assert headers["Host"] == f"localhost:{port}"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


async def test_a_picture_for_which_there_is_no_room_is_not_kept(serve: Serve) -> None:
    port = await serve(hello)
    spool = Spool(4)
    linked = Linked("url", f"http://localhost:{port}/")
    with linked.file, spool.share() as other, spool.share() as share:
        other.add(1)
        with pytest.raises(ModelNotReady):
            await fetch_all([linked], [f"localhost:{port}"], share, is_loopback)
    assert spool.held == 0


async def test_several_are_fetched_at_once_and_the_first_refusal_is_told(serve: Serve) -> None:
    both = asyncio.Barrier(2)

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/missing":
            return web.Response(status=404)
        await both.wait()
        return web.Response(body=request.path.encode())

    port = await serve(handler)
    a, b, missing = (Linked("images", f"http://localhost:{port}/{name}") for name in ("a", "b", "missing"))
    with a.file, b.file, missing.file:
        await fetch_all([a, b], [f"localhost:{port}"], Share(SPOOL), is_loopback)
        await asyncio.gather(a.seek(0), b.seek(0))
        assert (await a.read(), await b.read()) == (b"/a", b"/b")
        a.address = f"http://localhost:{port}/a"
        with pytest.raises(InvalidInput, match=r"^images: localhost answered 404$"):
            await fetch_all([a, missing], [f"localhost:{port}"], Share(SPOOL), is_loopback)


async def test_without_allowed_hosts_nothing_is_fetched() -> None:
    assert "its ALLOWED_IMAGE_HOSTS is empty" in await refusal("http://localhost/a.png")


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("http://b.example/", ["a.example"]),
        ("http://sub.a.example/", ["a.example"]),
        ("http://a.example.evil/", ["a.example"]),
        ("http://a.example:8080/", ["a.example"]),
        ("http://a.example/", ["a.example:8080"]),
        ("https://a.example/", ["a.example:80"]),
    ],
)
async def test_hosts_and_ports_are_matched_exactly(address: str, hosts: list[str], resolve: Any) -> None:
    asked = resolve()
    assert "is not one of this server's ALLOWED_IMAGE_HOSTS" in await refusal(address, *hosts)
    assert not asked


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("http://A.Example", ["a.example"]),
        ("https://a.example", ["a.example"]),
        ("https://a.example/", ["a.example:443"]),
        ("http://a.example:80/", ["a.example"]),
        ("http://bücher.example/", ["xn--bcher-kva.example"]),
        ("http://[::1]/", ["[::1]"]),
    ],
)
async def test_an_allowed_host_is_looked_up(address: str, hosts: list[str], resolve: Any) -> None:
    asked = resolve(["10.0.0.1"])
    assert "has an address that is not public" in await refusal(address, *hosts, may_connect=is_public)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://user:secret@localhost/", "neither user nor password"),
        ("http://localhost:99999/", "malformed"),
        ("http://[::1", "malformed"),
        ("http:///a.png", "with a host"),
    ],
)
async def test_odd_addresses_are_refused(address: str, says: str) -> None:
    message = await refusal(address, "localhost", "[::1]")
    assert says in message
    assert "secret" not in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0", "[::ffff:7f00:1]"])
async def test_loopback_is_refused_even_if_its_host_is_allowed(serve: Serve, host: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise AssertionError("connected")

    port = await serve(handler)
    message = await refusal(f"http://{host}:{port}/", f"{host}:{port}", may_connect=is_public)
    assert "has an address that is not public" in message


async def test_one_private_address_among_public_ones_is_refused(resolve: Any) -> None:
    resolve(["8.8.8.8", "10.0.0.1"])
    assert "not public" in await refusal("http://a.example/", "a.example", may_connect=is_public)


async def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(serve: Serve, resolve: Any) -> None:
    """A name server that answers differently the second time gains nothing."""
    port = await serve(hello)
    asked = resolve(["127.0.0.1"], ["203.0.113.1"])
    checked: list[Address] = []

    def may_connect(address: Address) -> bool:
        checked.append(address)
        return True

    assert await fetched(f"http://a.example:{port}/", f"a.example:{port}", may_connect=may_connect) == b"hello"
    assert asked == ["a.example"]
    assert [str(address) for address in checked] == ["127.0.0.1"]


async def test_a_proxy_of_the_environment_is_not_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    port = await serve(hello)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert await fetched(f"http://localhost:{port}/", f"localhost:{port}") == b"hello"


async def test_three_redirects_are_followed_and_no_fourth(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        left = int(request.path[1:])
        return web.Response(status=302, headers={"Location": f"/{left - 1}"}) if left else web.Response(body=b"hello")

    port = await serve(handler)
    assert await fetched(f"http://localhost:{port}/3", f"localhost:{port}") == b"hello"
    assert "redirects more than 3 times" in await refusal(f"http://localhost:{port}/4", f"localhost:{port}")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://b.example/", "b.example:80 is not one of this server's ALLOWED_IMAGE_HOSTS"),
        ("//b.example/", "b.example:80 is not one of"),
        ("http://127.0.0.1/", "127.0.0.1:80 is not one of"),
        ("file:///etc/passwd", "only http and https"),
        ("data:image/png;base64,aGVsbG8=", "only http and https"),
        ("http://user@localhost/", "neither user nor password"),
        ("http://[", "malformed"),
    ],
)
async def test_each_redirect_is_checked(serve: Serve, location: str, says: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    port = await serve(handler)
    assert says in await refusal(f"http://localhost:{port}/", f"localhost:{port}")


async def test_a_redirect_to_a_name_with_a_private_address_is_refused(serve: Serve, resolve: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=301, headers={"Location": "http://b.example/"})

    port = await serve(handler)
    asked = resolve(["127.0.0.1"], ["10.0.0.1"])
    message = await refusal(f"http://a.example:{port}/", f"a.example:{port}", "b.example")
    assert message == "url: b.example has an address that is not public"
    assert asked == ["a.example", "b.example"]


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
async def test_only_200_is_a_picture(serve: Serve, status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    port = await serve(handler)
    assert f"answered {status}" in await refusal(f"http://localhost:{port}/", f"localhost:{port}")


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
async def test_the_size_is_limited_while_it_streams(
    serve: Serve, declared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_FETCHED_BYTES", 1000)

    async def handler(request: web.Request) -> web.StreamResponse:
        if declared:
            return web.Response(body=b"x" * int(request.path[1:]))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * int(request.path[1:]))
        return response

    port = await serve(handler)
    assert len(await fetched(f"http://localhost:{port}/1000", f"localhost:{port}")) == 1000
    assert "larger than 1000 bytes" in await refusal(f"http://localhost:{port}/1001", f"localhost:{port}")


@pytest.mark.parametrize("slow", ["head", "body"])
async def test_the_time_is_limited(serve: Serve, slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FETCH_SECONDS", 0.2)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if slow == "body":
            await response.prepare(request)
            await response.write(b"x")
        await asyncio.sleep(30)
        return response

    port = await serve(handler)
    assert "localhost did not send it within 0.2 s" in await refusal(f"http://localhost:{port}/", f"localhost:{port}")


async def test_a_compressed_answer_is_not_unpacked(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=b"\x1f\x8b packed", headers={"Content-Encoding": "gzip"})

    port = await serve(handler)
    assert await fetched(f"http://localhost:{port}/", f"localhost:{port}") == b"\x1f\x8b packed"


async def test_a_server_that_is_away_or_breaks_off_is_named(nowhere: str, serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport
        request.transport.close()
        return response

    host = nowhere.removeprefix("http://")
    assert await refusal(nowhere, host) == "url: it cannot be fetched from 127.0.0.1"
    port = await serve(handler)
    assert "cannot be fetched from localhost" in await refusal(f"http://localhost:{port}/", f"localhost:{port}")


async def test_a_certificate_that_nobody_signed_is_refused(serve: Serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    port = await serve(hello, context)
    assert "cannot be fetched" in await refusal(f"https://localhost:{port}/", f"localhost:{port}")
