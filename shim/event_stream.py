"""`stream=true`: an edit as server-sent events, OpenAI's names and shapes.

Only `event:` + `data:` frames and bare comments are sent: an `id:`, a `retry:` or a frame without data breaks the
parser of OpenAI's SDKs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shim.context import State, log_error, log_fields
from shim.errors import ClientGone, InternalError, as_shim_error, error_body
from shim.log import logger
from shim.running.encode import picture_object
from shim.running.run import Advanced, EditRun, Event, Output, Partial, size_of, usage

REFUSAL_SECONDS = 0.5  # for this long a refusal may still be the answer itself, with its own status
KEEP_ALIVE_SECONDS = 8.0
EVENTS = 4  # that wait for a slow reader, then the edit waits too
CHUNK_BYTES = 2**18
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx
}
PREFIXES = {"edit": "image_edit", "generation": "image_generation"}  # of the events' names
KEEP_ALIVE = b": keep-alive\n\n"


class EventStream(Response):
    """Runs the edit while it is sent; `resources` are what the edit reads from, closed when it ends."""

    def __init__(self, request: Request[State], run: EditRun, resources: AsyncExitStack) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._request = request
        self._run = run
        self._resources = resources
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            try:
                await self._run.while_connected(receive, self._serve(send))
            except ClientGone as gone:
                if not self._started:
                    raise
                log_error(self._request, gone)

    async def _serve(self, send: Send) -> None:
        told, heard = anyio.create_memory_object_stream[Event](EVENTS)
        with heard:
            working = asyncio.create_task(self._work(told))
            try:
                first = await _first(heard, working)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._started = True
                async for chunk in _sliced(self._frames(first, heard, working)):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    async def _work(self, told: MemoryObjectSendStream[Event]) -> None:
        with told:
            await self._run.outputs(told.send)

    async def _frames(
        self, first: Event | None, heard: MemoryObjectReceiveStream[Event], working: asyncio.Task[None]
    ) -> AsyncIterator[list[bytes]]:
        """Ends with the edit, a failure being the last frame."""
        event = first
        try:
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    yield await self._frame(event) if event else [KEEP_ALIVE]
                    event = await _next(heard, KEEP_ALIVE_SECONDS)
            await working
        except Exception as raised:
            error = as_shim_error(raised)
            if isinstance(error, InternalError):
                logger.exception("Unhandled exception", extra={"fields": log_fields(self._request)})
            log_error(self._request, error)
            yield _event("error", [json.dumps({"type": "error", **error_body(error, "openai")}).encode()])

    async def _frame(self, event: Event) -> list[bytes]:
        background = "opaque"
        match event:
            case Advanced():
                return [f": progress {event.done}/{event.steps}\n\n".encode()]
            case Partial():
                name = f"{PREFIXES[self._run.edit.purpose]}.partial_image"
                picture, size = await self._run.encoded(event.image), size_of(event.image)
                more: dict[str, Any] = {"partial_image_index": event.index}
                if self._run.several:
                    more["index"] = event.job.index
            case Output():
                name = f"{PREFIXES[self._run.edit.purpose]}.completed"
                picture, size, background = event.picture, event.size, event.background
                tokens = usage([event], len(event.job.references), self._run.seconds)
                more = {"usage": tokens, "index": event.index, "seed": event.seed}
                if event.layer is not None:
                    more["layer"] = event.layer
                if event.caption:
                    more["revised_prompt"] = event.caption
        fields = {
            "type": name,
            "created_at": int(time.time()),
            "size": f"{size[0]}x{size[1]}",
            "quality": event.quality or "auto",
            "background": background,
            "output_format": self._run.edit.output_format,
            **more,
        }
        return _event(name, picture_object(picture, fields))


async def _first(heard: MemoryObjectReceiveStream[Event], working: asyncio.Task[None]) -> Event | None:
    """Raises what the edit failed with, if it does at once."""
    try:
        return await _next(heard, REFUSAL_SECONDS)
    except anyio.EndOfStream:
        await working
        raise


async def _next(heard: MemoryObjectReceiveStream[Event], seconds: float) -> Event | None:
    """None if nothing happens for that many seconds."""
    with anyio.move_on_after(seconds):
        return await heard.receive()
    return None


def _event(name: str, data: Iterable[bytes]) -> list[bytes]:
    return [f"event: {name}\ndata: ".encode(), *data, b"\n\n"]


async def _sliced(frames: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    async for frame in frames:
        for piece in frame:
            for start in range(0, len(piece), CHUNK_BYTES):
                yield piece[start : start + CHUNK_BYTES]
