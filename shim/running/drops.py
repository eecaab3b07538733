"""Tells the model of calls that nobody waits for any more: it does not see that a plain HTTP call was given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from shim.running.kserve import Body, byte_strings
from shim.running.segments import Segment
from shim.running.upstream import Upstream

DROP_SECONDS = 5.0
AT_ONCE = 64  # of the connections, when many clients leave together
NOBODY = 404  # says a balancer of a name without a server

Post = Callable[[Body, str, str], Awaitable[tuple[aiohttp.ClientResponse, bytes]]]  # body, edit, server


class Drops:
    """A balancer knows who has an edit once that server has answered a segment; before, each of them is told."""

    def __init__(self, post: Post, upstream: Upstream) -> None:
        self._post = post
        self._upstream = upstream
        self._sent: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        await asyncio.gather(*self._sent)

    def begin(self, call_id: str, edit_id: str, segment: Segment) -> None:
        """The call's place is free when they have arrived."""
        self._begin(call_id, edit_id, self._names(segment) or [""])

    async def end(self, call_id: str, edit_id: str, segment: Segment) -> None:
        """Waits for the one server that the balancer chooses: another that hangs is to hold up nobody's next call."""
        self._begin(call_id, edit_id, self._names(segment))
        await self._send(call_id, edit_id)

    def _names(self, segment: Segment) -> list[str]:
        return [] if segment.continued else self._upstream.names

    def _begin(self, call_id: str, edit_id: str, servers: Sequence[str]) -> None:
        for server in servers:
            sent = asyncio.create_task(self._send(call_id, edit_id, server))
            self._sent.add(sent)
            sent.add_done_callback(self._sent.discard)

    async def _send(self, call_id: str, edit_id: str, server: str = "") -> None:
        body = Body([byte_strings("cancel", call_id.encode())], "")
        async with self._at_once:
            if server and server not in self._upstream.names:
                return  # as it said when it was asked a moment ago
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with asyncio.timeout(DROP_SECONDS):
                    response, _ = await self._post(body, edit_id, server)
                if server and response.status == NOBODY:
                    self._upstream.has_not(server)
