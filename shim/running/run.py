"""All jobs of one request, at most a few at a time; whoever listens hears how they get on."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
import numpy as np
import numpy.typing as npt
from starlette.types import Receive

from shim.errors import ClientGone, GenerationTimeout
from shim.log import logger
from shim.reading.edit import Edit, Job
from shim.running.admission import Admission
from shim.running.connection import while_connected
from shim.running.encode import encode_base64
from shim.running.segments import Outcome, Plan, Runner
from shim.running.services import Services
from shim.running.standing import Standing

TOKENS = ("text_tokens", "image_tokens", "output_tokens")  # in the model's timings

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    job: Job
    index: int  # among those of the request
    layer: int | None  # from the bottom up, of a picture that was taken apart
    caption: str  # of a picture that came without a prompt
    quality: str  # that was asked for and made; empty: none
    picture: bytes  # base64
    size: tuple[int, int]  # width, height
    background: str  # OpenAI's word: opaque or transparent
    steps: int
    seed: int
    timings: dict[str, Any]


@dataclass(frozen=True)
class Advanced:
    """A segment ended before the last step."""

    done: int  # steps, over all jobs
    steps: int


@dataclass(frozen=True)
class Partial:
    job: Job
    index: int
    image: npt.NDArray[np.uint8]
    quality: str


Event = Advanced | Partial | Output
Tell = Callable[[Event], Awaitable[None]]


class EditRun:
    def __init__(self, edit: Edit, services: Services, request_id: str, caller: str) -> None:
        self.edit = edit
        self._caller = caller
        self._services = services
        self._request_id = request_id
        self._jobs = edit.jobs()
        self._done = [0] * len(self._jobs)  # steps
        self._partials = [0] * len(self._jobs)
        self._steps = 0  # of one job; all have as many
        self._started = time.monotonic()

    @property
    def several(self) -> bool:
        return len(self._jobs) > 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    async def outputs(self, tell: Tell) -> list[Output]:
        """All jobs' outputs in order; the first failure cancels the others."""
        settings = self._services.settings
        runner = Runner(
            model=self._services.model,
            readiness=self._services.readiness,
            metrics=self._services.metrics,
            plan=Plan(settings.segment_steps, self.edit.partial_images if self.edit.stream else 0),
            timeout_seconds=settings.request_timeout_seconds,
            standing=Standing(
                arrived=self._started,
                deadline=time.monotonic() + settings.request_timeout_seconds,
                caller=self._caller,
                # Those of them that go to one server, which can speak for itself alone.
                siblings=math.ceil(len(self._jobs) / max(1, self._services.readiness.servers)),
            ),
            edit_id=f"{self._request_id}-{secrets.token_hex(4)}",  # a client may give all its requests one id
            admission=Admission(),
        )
        slots = asyncio.Semaphore(settings.max_jobs_per_request)
        with self._services.flood.noted(self._caller):
            of_jobs = await self._together([self._output(job, runner, slots, tell) for job in self._jobs])
        outputs = [output for of_job in of_jobs for output in of_job]
        self._record(outputs)
        return outputs

    async def _together(self, jobs: list[Coroutine[Any, Any, list[Output]]]) -> list[list[Output]]:
        limit = self._services.settings.request_timeout_seconds
        try:
            async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
                tasks = [group.create_task(job) for job in jobs]
        except TimeoutError:
            raise GenerationTimeout(f"The edit took longer than {limit:g} s") from None
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def while_connected(self, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; a client that goes away ends it, and the edit with it."""
        try:
            return await while_connected(receive, work)
        except ClientGone:
            self._services.metrics.edits_abandoned.inc()
            raise ClientGone(f"The client closed the connection; its edit is dropped {self._where()}") from None

    async def encoded(self, image: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8] | None = None) -> bytes:
        """The picture file in base64; with its alpha, or on white where that is not to be seen."""
        edit = self.edit
        arguments = image, alpha, edit.shows_alpha, edit.output_format, edit.output_compression
        return await anyio.to_thread.run_sync(encode_base64, *arguments, limiter=self._services.threads)

    async def _output(self, job: Job, runner: Runner, slots: asyncio.Semaphore, tell: Tell) -> list[Output]:
        async def report(job: Job, outcome: Outcome) -> None:
            await self._report(job, outcome, tell)

        async with slots:
            edited = await runner.run(job, report)
        self._done[job.index] = self._steps
        count, outputs = len(edited.pictures), []
        for number, (image, alpha) in enumerate(edited.pictures):
            output = Output(
                job=job,
                index=job.index * count + number,
                layer=number if edited.layered else None,
                caption=edited.caption,
                quality=edited.quality,
                picture=await self.encoded(image, alpha),
                size=size_of(image),
                background="transparent" if alpha is not None and self.edit.shows_alpha else "opaque",
                steps=edited.steps,
                seed=edited.seed,
                timings=share_of(edited.timings, number, count),
            )
            await tell(output)
            outputs.append(output)
        return outputs

    async def _report(self, job: Job, outcome: Outcome, tell: Tell) -> None:
        self._done[job.index], self._steps = outcome.step, outcome.steps
        await tell(Advanced(sum(self._done), self._steps * len(self._jobs)))
        if outcome.preview is not None:
            await tell(Partial(job, self._partials[job.index], outcome.preview, outcome.quality))
            self._partials[job.index] += 1

    def _where(self) -> str:
        steps = self._steps * len(self._jobs)
        return f"after {sum(self._done)} of {steps} steps" if steps else "in its first segment"

    def _record(self, outputs: list[Output]) -> None:
        seconds, metrics = self.seconds, self._services.metrics
        metrics.edit_seconds.observe(seconds)
        metrics.images_in.inc(len(self.edit.images))
        metrics.images_out.inc(len(outputs))
        timings = [output.timings for output in outputs]
        fields = {
            "request_id": self._request_id,
            "dialect": self.edit.dialect,
            "status": 200,
            "seconds": round(seconds, 3),
            "timings": timings,
        }
        logger.info(
            "Image edit completed in %.2fs, generated %d image(s)", seconds, len(outputs), extra={"fields": fields}
        )


def share_of(timings: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """Of one of the pictures that were made together: the first has all that went in, and each a part of the rest."""
    if count == 1:
        return timings
    tokens = timings["output_tokens"]
    shared = {"output_tokens": tokens * (number + 1) // count - tokens * number // count}
    return {**timings, **shared} if number == 0 else {**timings, "text_tokens": 0, "image_tokens": 0, **shared}


def size_of(image: npt.NDArray[np.uint8]) -> tuple[int, int]:
    height, width, _ = image.shape
    return width, height


def usage(outputs: list[Output], images: int, seconds: float) -> dict[str, Any]:
    """OpenAI's fields and the classic ones; the strict readers of the first want all of them."""
    text, image, output = (sum(out.timings[key] for out in outputs) for key in TOKENS)
    return {
        "input_tokens": text + image,
        "output_tokens": output,
        "total_tokens": text + image + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "processing_time_seconds": round(seconds, 2),
        "input_images": images,
        "generated_images": len(outputs),
    }
