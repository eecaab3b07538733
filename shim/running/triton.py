"""One segment of a job ↔ one inference call of the Triton model `qwen_image_edit`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping

import aiohttp
from starlette.concurrency import run_in_threadpool

from shim.errors import GenerationError, GenerationTimeout, InvalidInput, QueueFull, ShimError
from shim.log import logger, one_line
from shim.reading.edit import Job
from shim.running.abilities import Abilities, abilities_of
from shim.running.byte_gate import ByteGate
from shim.running.drops import DROP_SECONDS, Drops
from shim.running.faults import Interrupted, TritonFault, UnknownPictures, Unreached
from shim.running.kserve import HEADER_LENGTH, Body, Tensor, Tensors, byte_strings, error_message, numbers
from shim.running.segments import History, Outcome, Segment
from shim.running.upstream import READY_SECONDS, Upstream

MODEL = "qwen_image_edit"
CONNECT_SECONDS = 5.0
CONNECTIONS = 1024  # to Triton, all requests together
MESSAGE_CHARS = 500  # of a model's error that a client sees
FAULT_CHARS = 200  # of a fault's text that the log keeps
MOST_LAYERS = 10  # of any model
PREVIEW_SIDE = 1024  # pixels: the largest that the model makes

EDIT_ID = "X-Edit-Id"  # by which a balancer keeps the segments of an edit together
SERVER = "X-Triton"  # the name of the one server of a balancer's that a call is for
ERROR_WORD = re.compile(
    r"(?:^|[^\w-])(invalid|unknown_pictures|queue_full|draining|failed|cancelled): *(.*)", re.DOTALL
)
RETRY = re.compile(r"retry in ([0-9]{1,2}) s\b")
GATEWAY_STATUSES = (502, 503)  # without a word of the model's: nobody took the call
CUT_OFF_STATUSES = (502, 504)  # of a balancer, which may have lost the answer
TRANSIENT = re.compile(r"stub process .* not healthy", re.IGNORECASE)  # a dead worker's, until Triton is restarted
# What Triton says of inputs that its model's configuration does not declare so.
MISFIT = re.compile(
    r"unexpected inference input|unexpected shape for input|data-type is|missing required input|inputs but got"
)
CALL_ID = re.compile(r"^\[request id: .*?\] ")
TENSOR = re.compile(r"(\w+): *(.*)", re.DOTALL)


class Triton:
    """Open it inside the running event loop, close it there."""

    def __init__(self, url: str, health_url: str, most_bytes: int) -> None:
        self._model_url = f"{url}/v2/models/{MODEL}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},  # else Triton would gzip the pixels
        )
        self._gate = ByteGate(most_bytes)
        self._calls = itertools.count()
        self._in_flight = 0
        self._upstream = Upstream(health_url)
        self._drops = Drops(self._post, self._upstream)

    async def close(self) -> None:
        """Calls that were cancelled just now still tell the model."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_SECONDS):
                while self._in_flight:
                    await asyncio.sleep(0.01)
        await self._drops.close()
        await self._session.close()
        await self._upstream.close()

    async def servers(self) -> int:
        return await self._upstream.servers()

    async def about(self) -> Abilities | None:
        """What the model can, as it says itself; None where nobody says so: no Triton, or one of another release.

        Triton takes no call without a tensor, and an older release refuses an edit without a prompt.
        """
        body = Body([byte_strings("prompt", b"")], "", {"about": True})
        try:
            async with asyncio.timeout(READY_SECONDS):
                response, content = await self._post(body, "")
            return abilities_of(Tensors(content, response.headers).get("about").item())
        except Exception as error:  # what stands between us and the model can answer with anything
            logger.debug("The model does not say what it can: %s: %s", type(error).__name__, error)
            return None

    async def run(self, segment: Segment, edit_id: str) -> Outcome:
        """Raises InvalidInput, QueueFull or GenerationError in the model's words, else Interrupted.

        `edit_id` must be no other edit's: by it, the call's id without dot and number, the model knows an edit that its
        workers died of. Where the call is cancelled or breaks off, the model is asked to drop it.
        """
        call_id = f"{edit_id}.{next(self._calls)}"
        body = await run_in_threadpool(body_of, segment, call_id)
        async with self._gate.passing(body.length, (not segment.continued, segment.standing.arrived)):
            self._in_flight += 1
            standing = segment.standing.parameters(time.monotonic(), continued=segment.continued)
            body.tell(standing | wishes(segment))
            try:
                response, content = await self._answer(body, call_id, edit_id, segment)
            except asyncio.CancelledError:
                self._drops.begin(call_id, edit_id, segment)
                raise
            finally:
                self._in_flight -= 1
        if response.status != 200:
            raise refusal(response.status, content, segment.job)
        return await run_in_threadpool(outcome, content, response.headers, segment)

    async def _answer(
        self, body: Body, call_id: str, edit_id: str, segment: Segment
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Whatever it is; a call that broke off may still be worked on, and is dropped before it is sent again."""
        try:
            response, content = await self._post(body, edit_id)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreached(f"{type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await self._drops.end(call_id, edit_id, segment)
            raise Interrupted(f"{type(error).__name__}: {error}") from error
        if response.status in CUT_OFF_STATUSES:
            await self._drops.end(call_id, edit_id, segment)
        return response, content

    async def _post(self, body: Body, edit_id: str, server: str = "") -> tuple[aiohttp.ClientResponse, bytes]:
        headers = {HEADER_LENGTH: str(len(body.header)), "Content-Length": str(body.length), EDIT_ID: edit_id}
        if server:
            headers[SERVER] = server
        async with self._session.post(f"{self._model_url}/infer", data=body.chunks(), headers=headers) as response:
            return response, await response.read()


def wishes(segment: Segment) -> dict[str, str | int | bool]:
    """What older models pass over."""
    edit = segment.job.edit
    wished: dict[str, str | int | bool | None] = {
        "layers": edit.layers,
        "resolution": edit.resolution,
        "n": edit.variants if edit.variants > 1 else None,
        "most_layers": edit.most_layers if edit.most_layers < MOST_LAYERS else None,
        "output_format": "jpeg" if edit.output_format == "jpeg" else None,
        "opaque": True if edit.background == "opaque" else None,
        "usual_size": True if edit.usual_size and edit.size is not None else None,
        "background": "transparent" if edit.background == "transparent" else None,
        "cache": edit.cache if edit.cache != "auto" else None,
        "quality": edit.quality if edit.quality != "auto" else None,
        "history": segment.history.name if segment.history is not None else None,
        "adapters": segment.adapters,
    }
    return {name: wish for name, wish in wished.items() if wish is not None}


def body_of(segment: Segment, call_id: str) -> Body:
    """Blocks."""
    names = {"pictures": ",".join(picture.digest for picture in segment.job.references)} if segment.named else {}
    return Body(list(_tensors(segment)), call_id, names)


def _tensors(segment: Segment) -> Iterator[Tensor]:
    """What neither the client gave nor the model told is left out: the model's defaults are its own."""
    job, edit = segment.job, segment.job.edit
    if job.references and not segment.named:
        yield byte_strings("image", *job.references)
    yield byte_strings("prompt", (edit.prompt or segment.caption).encode())
    yield numbers("seed", "INT64", job.seed)
    if edit.negative_prompt is not None:
        yield byte_strings("negative_prompt", edit.negative_prompt.encode())
    if edit.mask is not None:
        yield byte_strings("mask", edit.mask)
    if edit.markup is not None:  # older models refuse the tensor as one that they do not know
        yield byte_strings("markup", edit.markup)
    if edit.lora is not None:
        yield byte_strings("lora", edit.lora.encode())
    if edit.size is not None:
        yield numbers("size", "INT32", *edit.size)
    if segment.steps is not None:
        yield numbers("num_inference_steps", "INT32", segment.steps)
    if segment.true_cfg_scale is not None:
        yield numbers("true_cfg_scale", "FP32", segment.true_cfg_scale)
    if segment.stop is not None:
        yield numbers("stop_step", "INT32", segment.stop)
    if segment.preview:
        yield numbers("preview", "INT32", PREVIEW_SIDE)
    if segment.latents is not None:
        yield numbers("start_step", "INT32", segment.start)
        yield Tensor("latents", "FP32", (1, *segment.latents.shape), (segment.latents.data.cast("B"),))
    if segment.history is not None:  # only what an answer brought: older models do not know the tensor
        velocity = segment.history.velocity
        yield Tensor("history", "FP32", (1, *velocity.shape), (velocity.data.cast("B"),))


def outcome(content: bytes, headers: Mapping[str, str], segment: Segment) -> Outcome:
    try:
        found = _parse(Tensors(content, headers))
        stopped = segment.start < found.step < found.steps and found.latents is not None
        if not stopped and found.image is None and found.layers is None:
            raise ValueError(f"neither pictures nor latents at step {found.step} of {found.steps}")
        return found
    except Exception as error:  # what stands between us and the model can answer 200 with anything
        raise Interrupted(f"an answer that is not the model's: {type(error).__name__}: {error}") from error


def _parse(tensors: Tensors) -> Outcome:
    timings = json.loads(tensors.get("timings").item())
    order = timings.pop("order", None)
    name, velocity = timings.pop("history", ""), tensors.get("history")
    return Outcome(
        step=int(tensors.get("step").item()),
        steps=int(tensors.get("num_inference_steps").item()),
        true_cfg_scale=float(tensors.get("true_cfg_scale").item()),
        seed=int(tensors.get("seed").item()),
        timings=timings,
        order=None if order is None else time.monotonic() + float(order),
        named=bool(timings.pop("named", False)),
        image=tensors.get("image"),
        latents=tensors.get("latents"),
        preview=tensors.get("preview_image"),
        alpha=tensors.get("alpha"),
        history=History(name, velocity) if name and velocity is not None else None,
        layers=tensors.get("layers"),
        caption=str(timings.pop("caption", "")),
        quality=str(timings.pop("quality", "")),
        adapters=timings.pop("adapters", None),
    )


def refusal(status: int, content: bytes, job: Job) -> ShimError | Interrupted:
    text = content.decode("utf-8", "replace")
    message = error_message(text)
    known = model_error(message, job.edit.fields) if message else None
    if known:
        return known
    said = one_line(CALL_ID.sub("", message or text)[:FAULT_CHARS])
    if message and MISFIT.search(message):
        logger.error("The model does not take this shim's calls; is it of another release? Triton says: %s", said)
        return GenerationError("Image generation failed: this server and its model are of different releases")
    return _kind(status, message)(f"status {status}: {said}")


def _kind(status: int, message: str | None) -> type[Interrupted]:
    if status in GATEWAY_STATUSES:
        return Unreached
    return TritonFault if status == 500 and message and not TRANSIENT.search(message) else Interrupted


def model_error(message: str, fields: Mapping[str, str]) -> ShimError | Interrupted | None:
    """The model's error word, which a prefix of Triton's may precede, as one of our exceptions; None without a word.

    `fields` names the client's field for each tensor.
    """
    match = ERROR_WORD.search(message)
    if not match:
        return None
    word, text = match[1], match[2].strip()[:MESSAGE_CHARS]
    if word == "draining":
        return Unreached("Triton is draining")
    if word == "unknown_pictures":
        return UnknownPictures(text)
    if word == "queue_full":
        retry = RETRY.search(text)
        headers = {"retry-after": retry[1]} if retry else None
        return QueueFull("The server has all the work that it can hold; try again later", headers=headers)
    if word == "cancelled" and text.startswith("out of time"):
        return GenerationTimeout("The edit could not be done in time any more")
    if word != "invalid":
        return GenerationError(f"Image generation failed: {text}")
    tensor = TENSOR.fullmatch(text)
    if not tensor or tensor[1] not in fields:
        return InvalidInput(text)
    field = fields[tensor[1]]
    return InvalidInput(f"{field}: {tensor[2]}", param=field)
