from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from shim.errors import BodyTimeout
from shim.guards import deadline
from shim.guards.deadline import BodyDeadline
from shim.limits import MIN_BODY_RATE

SECONDS = 0.2


async def read(chunks: list[tuple[float, bytes]], storing: float = 0.0) -> int:
    """How many bytes an application got, of chunks that come so many seconds after the one before."""
    coming = iter(chunks)
    received = 0

    async def receive() -> Message:
        seconds, chunk = next(coming)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while (message := await receive())["more_body"]:
            received += len(message["body"])
            await asyncio.sleep(storing)

    await BodyDeadline(app, SECONDS)({"type": "http"}, receive, send)
    return received


async def test_a_body_that_stops_is_given_up() -> None:
    with pytest.raises(BodyTimeout, match=r"may be waited for 0.2 s, .* 1 bytes have come"):
        await read([(0.0, b"x"), (60.0, b"")])


async def test_silence_ends_a_body_long_before_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "SILENCE_SECONDS", 0.05)
    with pytest.raises(BodyTimeout, match=r"no silence of 0.05 s; 100000000 bytes have come"):
        await read([(0.0, bytes(10**8)), (5.0, b"x"), (0.0, b"")])


async def test_a_body_that_trickles_is_given_up() -> None:
    with pytest.raises(BodyTimeout):
        await read([(0.05, b"x")] * 1000)


async def test_what_came_at_once_does_not_let_the_rest_trickle() -> None:
    with pytest.raises(BodyTimeout):
        await read([(0.0, bytes(10**8)), *[(0.05, b"x")] * 100])


async def test_a_large_body_has_more_time() -> None:
    assert await read([(SECONDS / 2, bytes(MIN_BODY_RATE))] * 4 + [(0.0, b"")]) == 4 * MIN_BODY_RATE


async def test_the_time_that_storing_takes_is_not_the_clients() -> None:
    assert await read([(0.0, b"x")] * 4 + [(0.0, b"")], storing=SECONDS / 2) == 4


async def test_a_client_that_waits_for_its_answer_has_all_the_time() -> None:
    async def receive() -> Message:
        return await asyncio.sleep(2 * SECONDS, {"type": "http.disconnect"}) if read else done()

    def done() -> Message:
        read.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    read: list[bool] = []
    await BodyDeadline(app, SECONDS)({"type": "http"}, receive, send)
