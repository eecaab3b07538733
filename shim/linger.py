"""An answer that comes before the request's body was read must still reach the client.

A server that closes a connection while the client sends makes the kernel reset it, and the client, which has not read
the answer yet, sees a broken connection instead of a refusal. So the answer is sent whole, and what is still coming is
read and dropped for a while before the connection is let go.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.limits import LINGER_SECONDS


class Linger:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        read = False  # to its end, or there is nobody left

        async def watched() -> Message:
            nonlocal read
            message = await receive()
            read = not message.get("more_body", False)
            return message

        async def lingering(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or read:
                return await send(message)
            await send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while not read:
                        await watched()
            return await send({"type": "http.response.body", "body": b""})

        return await self.app(scope, watched, lingering)
