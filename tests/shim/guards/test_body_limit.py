from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from shim.errors import PayloadTooLarge
from shim.guards.body_limit import BodyLimit

LIMIT = 10  # bytes


async def read(chunks: list[bytes], **headers: str) -> tuple[bytes, int]:
    """The body as an application below the limit reads it, and how many messages the server had to give."""
    given = 0
    body = b""

    async def receive() -> Message:
        nonlocal given
        given += 1
        return {"type": "http.request", "body": chunks[given - 1], "more_body": given < len(chunks)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal body
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "headers": raw, "state": {"body_bytes": 0}}
    try:
        await BodyLimit(app, LIMIT)(scope, receive, send)
    except PayloadTooLarge as error:
        error.add_note(f"after {given} messages")
        raise
    return body, given


async def test_a_body_at_the_limit_passes() -> None:
    assert await read([b"12345", b"67890"], content_length="10") == (b"1234567890", 2)


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(PayloadTooLarge, match="larger than 10 bytes") as caught:
        await read([b"12345678901"], content_length="11")
    assert caught.value.__notes__ == ["after 0 messages"]


async def test_an_undeclared_length_is_counted_while_it_streams() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        await read([b"1234", b"5678", b"9012", b"3456"])
    assert caught.value.__notes__ == ["after 3 messages"]


async def test_a_body_longer_than_declared_is_counted_too() -> None:
    with pytest.raises(PayloadTooLarge):
        await read([b"12345678901"], content_length="1")


async def test_a_body_that_is_too_large_does_not_break_an_answer_under_way() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        assert (await receive())["type"] == "http.disconnect"

    scope = {"type": "http", "headers": [(b"content-length", b"11")], "state": {"body_bytes": 0}}
    await BodyLimit(app, LIMIT)(scope, receive, send)
