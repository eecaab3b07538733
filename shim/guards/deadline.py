"""How long a request's body may take: the middleware that gives up on one that trickles, or stops."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.errors import BodyTimeout
from shim.limits import BODYLESS, MIN_BODY_RATE, SILENCE_SECONDS


class BodyDeadline:
    """Reading a body raises once it was waited for longer than `seconds`, of which MIN_BODY_RATE bytes give one back.

    Not more: who has sent much at once cannot keep it here for the longer. SILENCE_SECONDS without a byte are enough
    too.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("method") in BODYLESS:
            return await self.app(scope, receive, send)
        received, left, complete = 0, self.seconds, False

        async def noting(message: Message) -> None:
            nonlocal complete
            complete = True  # as far as anybody cares
            await send(message)

        async def timed() -> Message:
            nonlocal received, left, complete
            if complete:
                return await receive()  # the client's going away
            started = time.monotonic()
            try:
                async with asyncio.timeout(min(SILENCE_SECONDS, left)):
                    message = await receive()
            except TimeoutError:
                raise BodyTimeout(
                    f"The request body came too slowly: it may be waited for {self.seconds:g} s, of which every "
                    f"{MIN_BODY_RATE} bytes give one back, with no silence of {SILENCE_SECONDS:g} s; "
                    f"{received} bytes have come"
                ) from None
            size = len(message.get("body", b""))
            # Not the time that we take to store it.
            left = min(self.seconds, left - (time.monotonic() - started) + size / MIN_BODY_RATE)
            received += size
            complete = not message.get("more_body", False)
            return message

        return await self.app(scope, timed, noting)
