"""How much a request's body may hold: the middleware that stops a large one while it streams."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.errors import PayloadTooLarge
from shim.limits import BODYLESS


class BodyLimit:
    """Reading a body that is too large raises: at once if Content-Length says so, else when the count is over."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("method") in BODYLESS:
            return await self.app(scope, receive, send)
        declared = content_length(Headers(scope=scope))

        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def limited() -> Message:
            if answered:
                return await receive()  # by a stream, to hear whether its client goes away
            self._check(declared)
            message = await receive()
            scope["state"]["body_bytes"] += len(message.get("body", b""))
            self._check(scope["state"]["body_bytes"])
            return message

        return await self.app(scope, limited, noting)

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise PayloadTooLarge(f"The request body is larger than {self.max_bytes} bytes")


def content_length(headers: Headers) -> int:
    """What a request declares; 0 for one in chunks."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0
