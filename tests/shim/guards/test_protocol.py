"""Connections that are held open, and requests that are none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import socket
import struct
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from shim.guards import protocol
from shim.guards.framing import BYTES_PER_CHUNK, FREE_CHUNKS, MAX_HEADER_LINES
from shim.limits import HEADER_BYTES

SECONDS = 0.5  # each of the limits in these tests
SLICE = 2**18
LARGE = 2**25  # more than the sockets' buffers hold
GET = b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n"


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def slow(request: Request) -> Response:
    await request.body()
    await asyncio.sleep(SECONDS / 2)
    return PlainTextResponse("ok")


async def large(request: Request) -> Response:
    return StreamingResponse(slices())


async def slices() -> AsyncIterator[bytes]:
    for _ in range(LARGE // SLICE):
        yield bytes(SLICE)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    for name in ("HEAD_SECONDS", "LINGER_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(protocol, name, SECONDS)
    routes = [Route(f"/{each.__name__}", each, methods=["GET", "POST"]) for each in (ok, echo, slow, large)]
    config = uvicorn.Config(
        Starlette(routes=routes), http=protocol.BoundedProtocol, ws="none", log_config=None, timeout_keep_alive=2
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield server
            deadline = time.monotonic() + 5
            while server.server_state.tasks:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


@pytest.fixture
def three_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "most_connections", lambda: 3)


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        yield client


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, dict(response.headers), response.read()


def seconds_until_closed(client: socket.socket, trickle: bytes = b"") -> float:
    """While a byte of `trickle` is sent every twentieth of a second, or in a hundred looks; still open is an error."""
    started = time.monotonic()
    client.settimeout(0.05)
    for byte in trickle or bytes(100):
        with contextlib.suppress(TimeoutError):
            try:
                if trickle:
                    client.sendall(bytes([byte]))
                while client.recv(2**16):
                    pass
            except ConnectionError:
                pass
            return time.monotonic() - started
    raise AssertionError("the connection is still open")


def test_a_connection_on_which_nothing_comes_is_closed(client: socket.socket) -> None:
    assert seconds_until_closed(client) > SECONDS * 0.9


def test_a_head_that_trickles_is_given_up(client: socket.socket) -> None:
    assert seconds_until_closed(client, GET[:4] + b"x" * 60) > SECONDS * 0.9


def test_the_next_head_on_a_connection_has_the_same_limit(client: socket.socket) -> None:
    client.sendall(GET)
    assert answer(client)[0] == 200
    assert seconds_until_closed(client, GET[:4] + b"x" * 60) > SECONDS * 0.9


def test_a_connection_in_use_is_kept(client: socket.socket) -> None:
    for _ in range(4):
        client.sendall(GET)
        assert answer(client)[::2] == (200, b"ok")
        time.sleep(SECONDS / 2)
    client.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
    for byte in b"slow":
        time.sleep(SECONDS / 2)
        client.sendall(bytes([byte]))
    assert answer(client)[::2] == (200, b"slow")


def test_a_connection_that_rests_is_kept_for_the_keep_alive_time(client: socket.socket) -> None:
    client.sendall(GET)
    assert answer(client)[0] == 200
    assert seconds_until_closed(client) > 1.5


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(sent)
    time.sleep(0.1)
    return client


SLOWLY = b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"
LARGELY = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"
UNDER_WAY = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"


@pytest.mark.usefixtures("three_connections")
def test_of_too_many_connections_the_one_that_has_waited_longest_is_closed(port: int) -> None:
    with connect(port, UNDER_WAY) as busy, connect(port) as silent, connect(port) as later, connect(port) as fourth:
        assert silent.recv(1) == b""
        busy.sendall(b"x")
        assert answer(busy)[::2] == (200, b"x")
        for client in (later, fourth):
            client.sendall(GET)
            assert answer(client)[0] == 200


@pytest.mark.usefixtures("three_connections")
def test_connections_that_rest_after_an_answer_make_room_too(port: int) -> None:
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(connect(port, GET)) for _ in range(4)]
        assert [answer(client)[0] for client in clients] == [200] * 4
        assert clients[0].recv(1) == b""
        clients[1].sendall(GET)
        assert answer(clients[1])[0] == 200


@pytest.mark.usefixtures("three_connections")
def test_several_that_come_at_once_close_as_many(port: int) -> None:
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(30)]
        last = opened.enter_context(connect(port, GET))
        assert answer(last)[0] == 200
        closed = [seconds_until_closed(client) < SECONDS / 2 for client in clients[:20]]
    assert all(closed)


@pytest.mark.usefixtures("three_connections")
def test_of_those_who_send_a_body_the_one_that_began_first_makes_room(port: int) -> None:
    """Else as many as there may be, who take their time, would keep everybody out."""
    with contextlib.ExitStack() as opened:
        busy = [opened.enter_context(connect(port, UNDER_WAY)) for _ in range(3)]
        time.sleep(SECONDS / 5)
        assert answer(opened.enter_context(connect(port, GET)))[0] == 200
        assert busy[0].recv(1) == b""
        for client in busy[1:]:
            client.sendall(b"x")
            assert answer(client)[0] == 200


def serves(client: socket.socket) -> bool:
    """Whether the answer comes whole, and another after it."""
    try:
        answer(client)
        client.sendall(GET)
        return answer(client)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.usefixtures("three_connections")
@pytest.mark.parametrize(
    "requests",
    [(LARGELY, LARGELY, LARGELY), (LARGELY, GET, LARGELY), (GET, LARGELY, LARGELY)],
    ids=["readers", "a reader", "an idle one"],
)
def test_of_those_who_read_nothing_and_those_who_ask_nothing_the_first_makes_room(
    port: int, monkeypatch: pytest.MonkeyPatch, requests: tuple[bytes, ...]
) -> None:
    """Else as many as there may be, who never read what they asked for, would keep everybody out."""
    monkeypatch.setattr(protocol, "STALL_SECONDS", 60.0)
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(connect(port, request)) for request in requests]
        assert answer(opened.enter_context(connect(port, GET)))[0] == 200
        assert [serves(client) for client in clients] == [False, True, True]


@pytest.mark.usefixtures("three_connections")
def test_whoever_reads_an_answer_slowly_stays_and_who_asks_nothing_makes_room(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MIN_BODY_RATE", 2**16)
    monkeypatch.setattr(protocol, "STALL_SECONDS", 60.0)
    with contextlib.ExitStack() as opened:
        reader = opened.enter_context(connect(port, LARGELY))
        left = 2**23
        while left > 0:  # of which each byte is a 65536th of a second
            left -= len(reader.recv(2**16))
        idle = [opened.enter_context(connect(port)) for _ in range(2)]
        assert answer(opened.enter_context(connect(port, GET)))[0] == 200
        assert idle[0].recv(1) == b""
        assert seconds_until_closed(idle[1]) > 0
        left = LARGE - 2**23
        while left > 0 and (read := len(reader.recv(2**16))):
            left -= read
        assert left <= 0


def test_nothing_is_left_of_a_connection_that_was_reset(server: uvicorn.Server, port: int) -> None:
    server.config.timeout_keep_alive = 60
    with connect(port, GET) as client:
        assert answer(client)[0] == 200
        (left,) = [weakref.ref(connection) for connection in server.server_state.connections]
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    deadline = time.monotonic() + 10  # of the sixty for which it would be kept
    while left() is not None:
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_behind_another_request_may_pause_like_any(client: socket.socket) -> None:
    client.sendall(GET + b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
    assert answer(client)[0] == 200
    time.sleep(1.5 * SECONDS)
    client.sendall(b"cd")
    assert answer(client)[::2] == (200, b"abcd")


@pytest.mark.usefixtures("three_connections")
def test_several_that_come_at_once_take_the_place_of_as_many_who_read_nothing(
    server: uvicorn.Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 60.0)
    with contextlib.ExitStack() as opened:
        readers = [opened.enter_context(connect(port, LARGELY)) for _ in range(3)]
        server.servers[0].get_loop().call_soon_threadsafe(time.sleep, 0.2)
        at_once = [opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in readers]
        for client in at_once:
            client.sendall(GET)
        assert [serves(client) for client in at_once + readers] == [True] * 3 + [False] * 3


@pytest.mark.usefixtures("three_connections")
def test_where_all_wait_for_an_answer_no_more_connections_are_taken(port: int) -> None:
    with contextlib.ExitStack() as opened:
        busy = [opened.enter_context(connect(port, SLOWLY)) for _ in range(3)]
        time.sleep(SECONDS / 5)
        assert opened.enter_context(connect(port)).recv(1) == b""
        assert [answer(client)[0] for client in busy] == [200] * 3


def test_requests_that_are_sent_together_are_all_answered(client: socket.socket) -> None:
    client.sendall(3 * GET)
    with client.makefile("rb") as reader:
        heads = [line for line in iter(reader.readline, b"") if line.startswith((b"HTTP/1.1", b"okHTTP/1.1"))]
    assert [head.split(b" ")[1] for head in heads] == [b"200"] * 3


@pytest.mark.parametrize("framing", [b"content-length: 100000000", b"transfer-encoding: chunked"])
def test_a_body_that_nobody_wants_is_not_read_for_ever(client: socket.socket, framing: bytes) -> None:
    client.sendall(b"POST /ok HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n")
    assert answer(client)[::2] == (200, b"ok")
    assert seconds_until_closed(client, b"1\r\nx\r\n" * 10) > SECONDS * 0.9


def test_who_goes_on_sending_after_the_last_answer_hears_it_and_is_not_read_for_ever(client: socket.socket) -> None:
    client.sendall(b"POST /ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000000\r\n\r\n")
    assert answer(client)[::2] == (200, b"ok")
    assert client.recv(1) == b""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100:
            client.sendall(b"x")
            sent += 1
            time.sleep(SECONDS / 20)
    assert 15 < sent < 100


def test_a_connection_whose_unwanted_body_has_ended_serves_again(client: socket.socket) -> None:
    client.sendall(b"POST /ok HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
    assert answer(client)[0] == 200
    client.sendall(b"body")
    time.sleep(SECONDS * 1.5)
    client.sendall(GET)
    assert answer(client)[::2] == (200, b"ok")


def test_an_answer_that_nobody_reads_is_given_up(client: socket.socket) -> None:
    client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
    time.sleep(SECONDS * 2)
    received = 0
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(2**16):
            received += len(chunk)
    assert received < LARGE


def test_an_answer_that_is_read_too_slowly_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MIN_BODY_RATE", 2**40)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(2**18):
                received += len(chunk)
                time.sleep(0.02)
    assert received < LARGE


def test_a_reader_who_is_fast_again_gets_the_time_back_that_the_rest_took(client: socket.socket) -> None:
    client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    received = 0
    for _ in range(2):
        time.sleep(SECONDS * 0.7)
        target = received + LARGE // 2
        while received < target and (chunk := client.recv(2**16)):
            received += len(chunk)
    assert received >= LARGE


def test_each_answer_of_a_connection_has_its_own_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 5.0)
    monkeypatch.setattr(protocol, "MIN_BODY_RATE", 2**40)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for _ in range(2):
            client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
            time.sleep(2.8)
            assert len(answer(client)[2]) == LARGE


def test_an_answer_that_is_read_slowly_comes_whole(client: socket.socket) -> None:
    client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    received = 0
    while chunk := client.recv(2**20):
        received += len(chunk)
        time.sleep(0.02)
    assert received > LARGE


def test_a_body_may_hold_any_line_ends(client: socket.socket) -> None:
    client.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\na\nb\n\r\n\n")
    assert answer(client)[::2] == (200, b"a\nb\n\r\n\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\1\2\r\n\r\n",
        b"GET /ok HTTP/1.1\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\n\r\n",
        b"GET /ok HTTP/1.1\nhost: x\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\n\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HEAD /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 2 * HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2 * HEADER_BYTES,
    ],
    ids=[
        "bytes", "no host", "two hosts", "no colon", "negative length", "two lengths", "unknown coding",
        "damaged chunk", "LF after a field", "LF after the request line", "LF only", "both lengths",
        "both lengths of no body", "long path", "long header",
    ],
)  # fmt: skip
def test_what_is_no_request_is_400_in_json_and_the_connection_is_closed(
    client: socket.socket, request_bytes: bytes
) -> None:
    with contextlib.suppress(ConnectionError):
        client.sendall(request_bytes)
    status, headers, body = answer(client)
    assert (status, headers["connection"], headers["content-type"]) == (400, "close", "application/json")
    assert headers["x-request-id"]
    assert json.loads(body).keys() == {"error", "message"}
    assert ("65536 bytes" in json.loads(body)["message"]) == (len(request_bytes) > HEADER_BYTES)


def test_a_server_can_stop_while_the_rest_of_a_malformed_request_is_read(
    server: uvicorn.Server, client: socket.socket
) -> None:
    client.sendall(GET)
    assert answer(client)[0] == 200
    client.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n")
    assert answer(client)[0] == 400
    server.should_exit = True
    while server.servers[0].is_serving():
        time.sleep(0.01)


CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
LATER = b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n"  # sent behind it


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("behind", [b"", LATER], ids=["alone", "another behind"])
@pytest.mark.parametrize(
    ("end", "status"),
    [
        (b"0\r\n\r\n", 200),
        (b"0\r\n\n", 400),
        (b"0\r\na: b\n\n", 400),
        (b"0\r\na: b\n\r\n", 400),
        (b"0\r\na: b\r\nc: d\n\r\n", 400),
        (b"0\r\na: b\r\n\r\n", 400),
    ],
    ids=["right", "LF alone", "LF twice", "LF after a field", "LF after the second field", "trailer fields"],
)
def test_how_a_chunked_body_ends_is_no_matter_of_opinion(
    client: socket.socket, end: bytes, status: int, behind: bytes, piece: int
) -> None:
    request = CHUNKED + b"2\r\na\n\r\n" + end + behind
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(request), piece):
            client.sendall(request[start : start + piece])
    found, _, body = answer(client)
    assert found == status
    if status == 200:
        assert body == b"a\n"
    else:
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b"", "what stands behind it is not taken for a request"


@pytest.mark.parametrize(
    ("chunks", "status"),
    [([b"x"] * FREE_CHUNKS, 200), ([b"x" * BYTES_PER_CHUNK] * 2 * FREE_CHUNKS, 200), ([b"x"] * 2 * FREE_CHUNKS, 400)],
    ids=["some small ones", "many", "many small ones"],
)
def test_a_body_of_very_many_small_chunks_is_refused(client: socket.socket, chunks: list[bytes], status: int) -> None:
    with contextlib.suppress(ConnectionError):
        client.sendall(CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n")
    found, _, body = answer(client)
    assert found == status
    expected = f"a body of {FREE_CHUNKS + 9} chunks with fewer than {BYTES_PER_CHUNK} bytes on average"
    assert (expected in body.decode()) == (status == 400)


def test_a_head_may_have_some_hundreds_of_lines_and_no_more(client: socket.socket) -> None:
    for lines, status in ((MAX_HEADER_LINES - 2, 200), (MAX_HEADER_LINES, 400)):
        client.sendall(b"GET /ok HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * lines + b"\r\n")
        found, _, body = answer(client)
        assert found == status
    assert json.loads(body)["message"] == f"Not valid HTTP/1.1: a head of more than {MAX_HEADER_LINES} lines"


def test_a_damaged_body_is_400_in_its_dialect(client: socket.socket) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\napi-key: k\r\ntransfer-encoding: chunked\r\n\r\n"
    client.sendall(head + b"1\r\nx\r\nzz\r\n")
    status, _, body = answer(client)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "INVALID_INPUT"


def test_a_damaged_body_that_nobody_reads_is_400_once(client: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    client.sendall(b"POST /ok HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
    assert answer(client)[0] == 400
    assert client.recv(100) == b""
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_damage_within_an_answer_cuts_it_off(client: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    client.sendall(b"POST /large HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    received = len(client.recv(1))
    client.sendall(b"zz\r\n")
    time.sleep(0.1)
    while chunk := client.recv(2**16):
        received += len(chunk)
    assert received < LARGE
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_damage_behind_the_answer_only_closes(client: socket.socket) -> None:
    client.sendall(b"POST /ok HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    assert answer(client)[0] == 200
    client.sendall(b"zz\r\n")
    assert client.recv(100) == b""
