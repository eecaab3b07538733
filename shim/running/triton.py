"""One segment of a job ↔ one inference call of the Triton model `qwen_image_edit`.

The calls travel through an aiohttp session of our own: tritonclient's `infer` wants the whole body in memory, and 200
waiting edits with their photographs would be gigabytes. Here the pictures go from their files to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool
from tritonclient.http import InferenceServerClient

from shim.errors import GenerationError, InvalidInput, QueueFull, ShimError
from shim.log import one_line
from shim.reading.edit import Job
from shim.reading.pictures import Picture

MODEL = "qwen_image_edit"
CONNECT_SECONDS = 5.0
READY_SECONDS = 2.0
DROP_SECONDS = 5.0
CONNECTIONS = 1024  # to Triton, all requests together
CHUNK_BYTES = 2**18
MESSAGE_CHARS = 500  # of a model's error that a client sees
FAULT_CHARS = 200  # of a fault's text that the log keeps
PREVIEW_SIDE = 1024  # pixels: the largest that the model makes

EDIT_ID = "X-Edit-Id"  # by which a balancer keeps the segments of an edit together
HEADER_LENGTH = "Inference-Header-Content-Length"
ERROR_WORD = re.compile(r"(?:^|[^\w-])(invalid|queue_full|draining|failed|cancelled): *(.*)", re.DOTALL)
RETRY = re.compile(r"retry in ([0-9]{1,2}) s\b")
GATEWAY_STATUSES = (502, 503)  # without a word of the model's: nobody took the call
TENSOR = re.compile(r"(\w+): *(.*)", re.DOTALL)


class Interrupted(Exception):
    """The machinery broke off: no connection, no answer in time, or one that is not the model's."""


class Unreached(Interrupted):
    """The model has not got the segment: nobody listens, a balancer has no server, or it takes no new edits."""


@dataclass(frozen=True)
class Answer:
    step: int  # steps done
    steps: int  # in all
    true_cfg_scale: float
    seed: int
    timings: dict[str, Any]
    image: npt.NDArray[np.uint8] | None  # (H, W, 3), of a finished edit
    latents: npt.NDArray[np.float32] | None  # (tokens, channels), of one that stopped before
    preview: npt.NDArray[np.uint8] | None  # (H, W, 3)


@dataclass(frozen=True)
class Segment:
    """Some of a job's steps, with what the model needs to go on from there."""

    job: Job
    arrival: float  # Unix time at which the job's first segment was first sent
    steps: int | None  # in all; None: the model's default
    true_cfg_scale: float | None
    start: int = 0
    stop: int | None = None  # None: the last step
    latents: npt.NDArray[np.float32] | None = None
    preview: bool = False

    @property
    def continued(self) -> bool:
        return self.start > 0

    def following(self, answer: Answer) -> Segment:
        return replace(
            self,
            steps=answer.steps,
            true_cfg_scale=answer.true_cfg_scale,
            start=answer.step,
            latents=answer.latents,
        )


class Triton:
    """Open it inside the running event loop, close it there."""

    def __init__(self, url: str, health_url: str) -> None:
        self._model_url = f"{url}/v2/models/{MODEL}"
        self._health_url = health_url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},  # else Triton would gzip the pixels
        )
        self._calls = itertools.count()
        self._in_flight = 0
        self._dropping: set[asyncio.Task[None]] = set()
        # Of its own, so that the edits in flight never keep the question waiting.
        self._health_session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_SECONDS))

    async def close(self) -> None:
        """Calls that were cancelled just now still tell the model."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DROP_SECONDS):
                while self._in_flight:
                    await asyncio.sleep(0.01)
        await asyncio.gather(*self._dropping)
        await self._session.close()
        await self._health_session.close()

    async def is_ready(self) -> bool:
        """What the supervisor, or a balancer in front of several, says: Triton calls a dead worker's model ready."""
        try:
            async with self._health_session.get(self._health_url) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def run(self, segment: Segment, edit_id: str) -> Answer:
        """Raises InvalidInput, QueueFull or GenerationError in the model's words, else Interrupted.

        `edit_id` must be no other edit's. Where the call is cancelled, the model is told to drop it.
        """
        call_id = f"{edit_id}.{next(self._calls)}"
        body = await run_in_threadpool(_body, segment, call_id)
        self._in_flight += 1
        try:
            response, content = await self._post(body, edit_id)
        except asyncio.CancelledError:
            self._drop(call_id, edit_id)
            raise
        except aiohttp.ClientConnectorError as error:
            raise Unreached(f"{type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Interrupted(f"{type(error).__name__}: {error}") from error
        finally:
            self._in_flight -= 1
        if response.status != 200:
            raise _error(response.status, content, segment.job)
        return await run_in_threadpool(_answer, content, response.headers, segment)

    async def _post(self, body: Body, edit_id: str) -> tuple[aiohttp.ClientResponse, bytes]:
        headers = {HEADER_LENGTH: str(len(body.header)), "Content-Length": str(body.length), EDIT_ID: edit_id}
        async with self._session.post(f"{self._model_url}/infer", data=body.chunks(), headers=headers) as response:
            return response, await response.read()

    def _drop(self, call_id: str, edit_id: str) -> None:
        """Tells the model, which does not see that a plain HTTP call was given up; its place is free then."""
        dropping = asyncio.create_task(self._send_drop(call_id, edit_id))
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)

    async def _send_drop(self, call_id: str, edit_id: str) -> None:
        body = Body([_bytes("cancel", call_id.encode())], "")
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with asyncio.timeout(DROP_SECONDS):
                await self._post(body, edit_id)


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    pieces: tuple[bytes | memoryview | Picture, ...]


class Body:
    """An inference request of the KServe protocol's binary extension. Blocks where it is made."""

    def __init__(self, tensors: Sequence[Tensor], request_id: str) -> None:
        sizes = [sum(map(_length, tensor.pieces)) for tensor in tensors]
        described = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": size},
            }
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        header = {"id": request_id, "inputs": described, "parameters": {"binary_data_output": True}}
        self.header = json.dumps(header).encode()
        self.length = len(self.header) + sum(sizes)
        self._pieces = [self.header, *(piece for tensor in tensors for piece in tensor.pieces)]

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        for piece in self._pieces:
            if isinstance(piece, Picture):
                start = 0
                while chunk := await run_in_threadpool(piece.read, start, CHUNK_BYTES):
                    start += len(chunk)
                    yield chunk
            else:
                view = memoryview(piece)
                for start in range(0, len(view), CHUNK_BYTES):
                    yield view[start : start + CHUNK_BYTES]


def _body(segment: Segment, call_id: str) -> Body:
    """Blocks: the files' lengths are asked for."""
    return Body(list(_tensors(segment)), call_id)


def _tensors(segment: Segment) -> Iterator[Tensor]:
    """What neither the client gave nor the model told is left out: the model's defaults are its own."""
    job, edit = segment.job, segment.job.edit
    yield _bytes("image", *job.references)
    yield _bytes("prompt", edit.prompt.encode())
    yield _numbers("seed", "INT64", job.seed)
    yield _numbers("arrival", "FP64", segment.arrival)
    if edit.negative_prompt is not None:
        yield _bytes("negative_prompt", edit.negative_prompt.encode())
    if edit.mask is not None:
        yield _bytes("mask", edit.mask)
    if edit.size is not None:
        yield _numbers("size", "INT32", *edit.size)
    if segment.steps is not None:
        yield _numbers("num_inference_steps", "INT32", segment.steps)
    if segment.true_cfg_scale is not None:
        yield _numbers("true_cfg_scale", "FP32", segment.true_cfg_scale)
    if segment.stop is not None:
        yield _numbers("stop_step", "INT32", segment.stop)
    if segment.preview:
        yield _numbers("preview", "INT32", PREVIEW_SIDE)
    if segment.latents is not None:
        yield _numbers("start_step", "INT32", segment.start)
        yield Tensor("latents", "FP32", (1, *segment.latents.shape), (segment.latents.data.cast("B"),))


def _bytes(name: str, *values: bytes | Picture) -> Tensor:
    pieces = [piece for value in values for piece in (struct.pack("<I", _length(value)), value)]
    return Tensor(name, "BYTES", (1, len(values)), tuple(pieces))


def _numbers(name: str, datatype: str, *values: float) -> Tensor:
    code = {"INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d"}[datatype]
    return Tensor(name, datatype, (1, len(values)), (struct.pack(f"<{len(values)}{code}", *values),))


def _length(piece: bytes | memoryview | Picture) -> int:
    return piece.length() if isinstance(piece, Picture) else len(piece)


def _answer(content: bytes, headers: Mapping[str, str], segment: Segment) -> Answer:
    try:
        answer = _parse(content, int(headers[HEADER_LENGTH]))
        stopped = segment.start < answer.step < answer.steps and answer.latents is not None
        if not stopped and answer.image is None:
            raise ValueError(f"neither image nor latents at step {answer.step} of {answer.steps}")
        return answer
    except Exception as error:  # what stands between us and the model can answer 200 with anything
        raise Interrupted(f"an answer that is not the model's: {type(error).__name__}: {error}") from error


def _parse(content: bytes, header_length: int) -> Answer:
    result = InferenceServerClient.parse_response_body(content, header_length=header_length)

    def tensor(name: str) -> Any:
        value = result.as_numpy(name)
        return None if value is None else value[0]

    return Answer(
        step=int(tensor("step").item()),
        steps=int(tensor("num_inference_steps").item()),
        true_cfg_scale=float(tensor("true_cfg_scale").item()),
        seed=int(tensor("seed").item()),
        timings=json.loads(tensor("timings").item()),
        image=tensor("image"),
        latents=tensor("latents"),
        preview=tensor("preview_image"),
    )


def _error(status: int, content: bytes, job: Job) -> ShimError | Interrupted:
    text = content.decode("utf-8", "replace")
    message = _error_message(text)
    known = model_error(message, job.edit.fields) if message else None
    if known:
        return known
    fault = Unreached if status in GATEWAY_STATUSES else Interrupted
    return fault(f"status {status}: {one_line((message or text)[:FAULT_CHARS])}")


def _error_message(text: str) -> str | None:
    """Triton's; None for what is not Triton's answer, a balancer's page for one."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return None


def model_error(message: str, fields: Mapping[str, str]) -> ShimError | Unreached | None:
    """The model's error word, which a prefix of Triton's may precede, as one of our exceptions; None without a word.

    `fields` names the client's field for each tensor.
    """
    match = ERROR_WORD.search(message)
    if not match:
        return None
    word, text = match[1], match[2].strip()[:MESSAGE_CHARS]
    if word == "draining":
        return Unreached("Triton is draining")
    if word == "queue_full":
        retry = RETRY.search(text)
        headers = {"retry-after": retry[1]} if retry else None
        return QueueFull("The server has all the work that it can hold; try again later", headers=headers)
    if word != "invalid":
        return GenerationError(f"Image generation failed: {text}")
    tensor = TENSOR.fullmatch(text)
    if not tensor or tensor[1] not in fields:
        return InvalidInput(text)
    field = fields[tensor[1]]
    return InvalidInput(f"{field}: {tensor[2]}", param=field)
