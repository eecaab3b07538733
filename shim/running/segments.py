"""One job → calls of at most SEGMENT_STEPS steps each: what one achieved survives whatever breaks the next."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shim.errors import ModelNotReady, QueueFull
from shim.log import logger
from shim.metrics import Metrics
from shim.reading.edit import Job
from shim.running.admission import Admission
from shim.running.readiness import Readiness
from shim.running.triton import Answer, Interrupted, Segment, Triton

BACK_OFF_SECONDS = (0.25, 8.0)  # the first wait, the longest
FIRST_CALL_SHARE = 0.75  # of the request's time, as nothing is known yet of the queue and the steps
QUEUE_SECONDS = 60.0  # for older edits, beside the time of the segment's own steps
SLOWER = 10  # times as long as before may a step take
STAGES = ("queue", "encode", "denoise", "decode")  # in the model's timings, seconds

Report = Callable[[Job, Answer], Awaitable[None]]


@dataclass(frozen=True)
class Edited:
    image: npt.NDArray[np.uint8]  # (H, W, 3)
    seed: int
    timings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Where the segments of an edit end."""

    segment_steps: int  # 0: only where a partial image is wanted
    partial_images: int

    def stop(self, start: int, steps: int | None) -> int | None:
        """The end of the segment that begins at `start`; None is the edit's own. Unknown steps are learnt by one."""
        if steps is None:
            return 1 if self.segment_steps or self.partial_images else None
        ends = [*self.partials(steps), *([start + self.segment_steps] if self.segment_steps else [])]
        return min((end for end in ends if start < end < steps), default=None)

    def partials(self, steps: int) -> list[int]:
        """The steps, evenly spaced, after which a partial image is wanted; fewer where there are not enough steps."""
        parts = self.partial_images + 1
        return sorted({steps * part // parts for part in range(1, parts)} - {0})

    def shows(self, stop: int | None, steps: int | None) -> bool:
        """Whether a segment that ends there asks for a picture; always while it is not known to be wanted."""
        if steps is None:
            return self.partial_images > 0
        return stop in self.partials(steps)


class Patience:
    """How long a call may go without an answer: generous, as what is sent twice is also worked on twice."""

    def __init__(self, first_call_seconds: float | None) -> None:
        self._first_call_seconds = first_call_seconds
        self._seconds_per_step: float | None = None
        self._factor = 1

    def limit(self, steps: int) -> float | None:
        if self._seconds_per_step is None:
            return self._first_call_seconds
        return self._factor * (QUEUE_SECONDS + SLOWER * steps * self._seconds_per_step)

    def answered(self, steps: int, seconds: float) -> None:
        self._seconds_per_step = max(self._seconds_per_step or 0.0, seconds / steps)

    def ran_out(self) -> None:
        self._factor *= 2


@dataclass(frozen=True)
class Runner:
    """Runs the jobs of one request; every wait in it is ended by the request's time-out, which is not its own."""

    triton: Triton
    readiness: Readiness
    metrics: Metrics
    plan: Plan
    timeout_seconds: float
    edit_id: str  # of the request, no other's
    admission: Admission

    async def run(self, job: Job, report: Report) -> Edited:
        """`report` hears of every segment but the last."""
        patience = Patience(FIRST_CALL_SHARE * self.timeout_seconds if self.plan.segment_steps else None)
        segment = Segment(job, time.time(), job.edit.steps, job.edit.true_cfg_scale)
        answers: list[Answer] = []
        while True:
            stop = self.plan.stop(segment.start, segment.steps)
            segment = replace(segment, stop=stop, preview=self.plan.shows(stop, segment.steps))
            answer = await self._answer(segment, patience)
            answers.append(_without_pixels(answer))
            if answer.image is not None:
                return Edited(answer.image, answer.seed, _timings(answers))
            if answer.step not in self.plan.partials(answer.steps):
                answer = replace(answer, preview=None)
            segment = segment.following(answer)
            await report(job, answer)

    async def _answer(self, segment: Segment, patience: Patience) -> Answer:
        """Sends the segment until the model has answered in its own words."""
        waits = back_off()
        while True:
            try:
                with self.admission.attempt():
                    return await self._call(segment, patience)
            except QueueFull:
                if not (segment.continued or self.admission.granted):
                    raise
                await asyncio.sleep(next(waits))
            except Interrupted as fault:
                self.metrics.segments_interrupted.inc()
                logger.warning("Triton broke off after step %d, to be sent again: %s", segment.start, fault)
                await asyncio.sleep(next(waits))
                await self._wait_until_ready()

    async def _call(self, segment: Segment, patience: Patience) -> Answer:
        started = time.monotonic()
        limit = patience.limit((segment.stop or segment.steps or 1) - segment.start)
        try:
            async with asyncio.timeout(limit):
                answer = await self.triton.run(segment, f"{self.edit_id}-{segment.job.index}")
        except TimeoutError:
            patience.ran_out()
            raise Interrupted(f"no answer within {limit:.0f} s") from None
        patience.answered(answer.step - segment.start, time.monotonic() - started)
        self.metrics.segments.inc()
        return answer

    async def _wait_until_ready(self) -> None:
        """Pictures are sent only where they can be taken; a request of which nothing was ever taken is not kept."""
        while not await self.readiness.is_ready():
            if not self.admission.granted:
                raise ModelNotReady("Model is not ready yet")
            await asyncio.sleep(BACK_OFF_SECONDS[0])


def back_off() -> Iterator[float]:
    wait, longest = BACK_OFF_SECONDS
    while True:
        yield wait * random.uniform(0.75, 1.25)
        wait = min(2 * wait, longest)


def _without_pixels(answer: Answer) -> Answer:
    return replace(answer, image=None, latents=None, preview=None)


def _timings(answers: list[Answer]) -> dict[str, Any]:
    """The last segment's, with the stages' seconds of all; the encodings of later ones come from the cache."""
    seconds = {stage: round(sum(answer.timings.get(stage, 0.0) for answer in answers), 6) for stage in STAGES}
    first = answers[0].timings
    return {**answers[-1].timings, **seconds, "cache_hit": first.get("cache_hit"), "segments": len(answers)}
