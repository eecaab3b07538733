"""POST …/images/edits and …/generations: body → edit → k×n jobs → one answer, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from shim.context import State, log_fields
from shim.dialect import Purpose
from shim.errors import ModelNotReady
from shim.event_stream import EventStream
from shim.guards.auth import authorize
from shim.guards.caller import caller_of
from shim.log import logged_prompt, logger
from shim.reading.edit import Edit, read_edit
from shim.running.abilities import within
from shim.running.encode import picture_object
from shim.running.run import EditRun, Event, Output, usage

CHUNK_BYTES = 2**18


async def edit_images(request: Request[State]) -> Response:
    return await _answered(request, "edit")


async def generate_images(request: Request[State]) -> Response:
    """Where the model makes pictures of a text alone; another says that it does not."""
    return await _answered(request, "generation")


async def _answered(request: Request[State], purpose: Purpose) -> Response:
    services = request.state["services"]
    settings = services.settings
    request.state["key"] = authorize(request.headers, services.keys.accepted())
    caller = caller_of(request.client)
    services.flood.check(caller)
    async with AsyncExitStack() as resources:
        edit = await resources.enter_async_context(
            read_edit(request, purpose, within(settings, services.told.known), services.spool, services.threads)
        )
        request.state["stream"] = edit.stream
        if not await services.readiness.is_ready():
            raise ModelNotReady("Model is not ready yet")
        logger.info(
            "Processing image edit request: prompt=%s, n=%d",
            logged_prompt(edit.prompt, settings.log_prompts),
            edit.variants,
            extra={"fields": log_fields(request)},
        )
        resources.enter_context(services.metrics.edits_in_flight.track_inprogress())
        run = EditRun(edit, services, request.state["request_id"], caller)
        if edit.stream:
            return EventStream(request, run, resources.pop_all())
        outputs = await run.while_connected(request.receive, run.outputs(_nobody))
    return _answer(edit, outputs, run.seconds)


async def _nobody(event: Event) -> None:
    """Who waits for the whole answer hears nothing before."""


def _answer(edit: Edit, outputs: list[Output], seconds: float) -> Response:
    first = outputs[0]
    width, height = first.size
    rest = {
        "created": int(time.time()),
        "size": f"{width}x{height}",
        "output_format": edit.output_format,
        "background": "transparent" if any(out.background == "transparent" for out in outputs) else "opaque",
        **({"quality": first.quality} if first.quality else {}),
        **({"num_inference_steps": first.steps} if edit.steps or first.quality else {}),
        "usage": usage(outputs, len(edit.images), seconds),
    }
    items = [piece for output in outputs for piece in (b", ", *_item(output, seconds))][1:]
    pieces = [json.dumps(rest).removesuffix("}").encode(), b', "data": [', *items, b"]}"]
    headers = {"content-length": str(sum(map(len, pieces)))}
    return StreamingResponse(_sliced(pieces), headers=headers, media_type="application/json")


def _item(output: Output, seconds: float) -> list[bytes]:
    fields: dict[str, Any] = {"seed": output.seed, **({"revised_prompt": output.caption} if output.caption else {})}
    if output.layer is not None:
        width, height = output.size
        images = len(output.job.references)
        fields |= {"layer": output.layer, "size": f"{width}x{height}", "usage": usage([output], images, seconds)}
    return picture_object(output.picture, fields)


async def _sliced(pieces: list[bytes]) -> AsyncIterator[bytes]:
    """Megabytes of base64 are never joined, nor written to the socket at once."""
    for piece in pieces:
        for start in range(0, len(piece), CHUNK_BYTES):
            yield piece[start : start + CHUNK_BYTES]
