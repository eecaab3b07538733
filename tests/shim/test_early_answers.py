"""Answers that come before the body was read, seen from the client's end of a real connection."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from tests.kit.servers import Server, serve_shim

BODY_BYTES = 8 * 2**20
HEAD = "POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"


@pytest.fixture(scope="module")
def shim() -> Iterator[Server]:
    """Asks for a key, and takes small bodies only."""
    with serve_shim("http://127.0.0.1:9", wait_for="/health", API_KEY="k", MAX_BODY_BYTES="1000") as server:
        yield server


def send(shim: Server, head: str, body: bytes) -> bytes:
    """All that is answered to a client which reads only after it has sent everything."""
    with socket.create_connection(("127.0.0.1", shim.port), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 2**16):
            connection.sendall(body[start : start + 2**16])
            time.sleep(0.001)
        return connection.recv(2**16)


@pytest.mark.parametrize(
    "head",
    [HEAD, f"{HEAD}Connection: close\r\n", HEAD.replace("HTTP/1.1", "HTTP/1.0")],
    ids=["kept", "closed", "HTTP/1.0"],
)
@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("", b"401 Unauthorized"),
        ("Authorization: Bearer k\r\n", b"413 "),
        ("No colon\r\n", b"400 "),
        ("Bare: LF\n", b"400 "),
    ],
    ids=["without the key", "too large", "malformed", "forbidden"],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(shim: Server, head: str, header: str, status: bytes) -> None:
    assert send(shim, head + header, b"x" * BODY_BYTES).startswith(b"HTTP/1.1 " + status)


def test_the_connection_serves_the_next_request(shim: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shim.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/images/edits", b"x" * 100_000)
        answer = connection.getresponse()
        answer.read()
        used = connection.sock
        assert answer.status == 401
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        assert connection.sock is used


def test_a_client_that_never_sends_its_body_is_let_go(shim: Server) -> None:
    with socket.create_connection(("127.0.0.1", shim.port), timeout=40) as connection:
        connection.sendall(f"{HEAD}Content-Length: 100000\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(2**16):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 401")


def test_a_client_that_waits_to_be_told_to_go_on_is_refused_instead(shim: Server) -> None:
    with socket.create_connection(("127.0.0.1", shim.port), timeout=20) as connection:
        connection.sendall(f"{HEAD}Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n".encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401")
