"""One job → calls of at most SEGMENT_STEPS steps each: what one achieved survives whatever breaks the next."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shim.errors import GenerationError, InvalidInput, ModelNotReady, QueueFull
from shim.log import logger
from shim.metrics import Metrics
from shim.reading.edit import Job
from shim.running.admission import Admission
from shim.running.faults import Interrupted, TritonFault, UnknownPictures, Unreached
from shim.running.readiness import Readiness
from shim.running.standing import Standing

BACK_OFF_SECONDS = (0.25, 8.0)  # the first wait, the longest
FIRST_CALL_SHARE = 0.75  # of the request's time, as nothing is known yet of the queue and the steps
QUEUE_SECONDS = 60.0  # for older edits, beside the time of the segment's own steps
SLOWER = 10  # times as long as before may a step take
STAGES = ("queue", "encode", "denoise", "decode")  # in the model's timings, seconds


@dataclass(frozen=True)
class History:
    """Goes back to the model as it came."""

    name: str
    velocity: npt.NDArray[np.float32]  # (tokens, channels)


@dataclass(frozen=True)
class Outcome:
    """What became of a segment, in the model's words."""

    step: int  # steps done
    steps: int  # in all
    true_cfg_scale: float
    seed: int
    timings: dict[str, Any]
    order: float | None  # the edit's place, a moment of this process's monotonic clock; older models tell none
    named: bool  # whether the pictures of the next segment may be named instead of sent
    image: npt.NDArray[np.uint8] | None  # (H, W, 3), of a finished edit
    latents: npt.NDArray[np.float32] | None  # (tokens, channels), of one that stopped before
    preview: npt.NDArray[np.uint8] | None  # (H, W, 3)
    alpha: npt.NDArray[np.uint8] | None = None  # (H, W), of a finished edit that is not opaque
    history: History | None = None  # of one that stopped before a step that the model's step cache spares
    layers: npt.NDArray[np.uint8] | None = None  # (layers, H, W, 4) from the bottom up, instead of the image
    caption: str = ""  # that the model wrote in the place of an empty prompt
    quality: str = ""  # the word that its steps and cache stand for, where the caller said it
    adapters: str | None = None  # those that were used, as their files are; older models tell none


@dataclass(frozen=True)
class Segment:
    """Some of a job's steps, with what the model needs to resume from there."""

    job: Job
    standing: Standing
    steps: int | None  # in all; None: the model's default
    true_cfg_scale: float | None
    start: int = 0
    stop: int | None = None  # None: the last step
    latents: npt.NDArray[np.float32] | None = None
    history: History | None = None
    preview: bool = False
    named: bool = False  # its pictures are named instead of sent
    caption: str = ""  # the model's own, in the place of an empty prompt
    adapters: str | None = None  # as the first answer told them: with others this is another edit

    @property
    def continued(self) -> bool:
        return self.start > 0

    def following(self, outcome: Outcome) -> Segment:
        return replace(
            self,
            steps=outcome.steps,
            true_cfg_scale=outcome.true_cfg_scale,
            start=outcome.step,
            latents=outcome.latents,
            history=outcome.history,
            caption=outcome.caption or self.caption,
            adapters=outcome.adapters,
            named=outcome.named and bool(self.job.references),
            standing=replace(self.standing, order=outcome.order),
        )


class Model(Protocol):
    async def run(self, segment: Segment, edit_id: str) -> Outcome:
        """Raises InvalidInput, QueueFull or GenerationError in the model's words, else Interrupted."""


Report = Callable[[Job, Outcome], Awaitable[None]]


class Rendered(NamedTuple):
    image: npt.NDArray[np.uint8]  # (H, W, 3)
    alpha: npt.NDArray[np.uint8] | None  # (H, W); None: opaque


@dataclass(frozen=True)
class Edited:
    pictures: tuple[Rendered, ...]  # one, or layers from the bottom up
    layered: bool
    caption: str
    quality: str
    steps: int
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

    model: Model
    readiness: Readiness
    metrics: Metrics
    plan: Plan
    timeout_seconds: float
    standing: Standing  # of each of its jobs
    edit_id: str  # of the request, no other's
    admission: Admission

    async def run(self, job: Job, report: Report) -> Edited:
        """`report` hears of every segment but the last."""
        patience = Patience(FIRST_CALL_SHARE * self.timeout_seconds if self.plan.segment_steps else None)
        segment = Segment(job, self.standing, job.edit.steps, job.edit.true_cfg_scale)
        outcomes: list[Outcome] = []
        while True:
            stop = self.plan.stop(segment.start, segment.steps)
            segment = replace(segment, stop=stop, preview=self.plan.shows(stop, segment.steps))
            outcome = await self._sent(segment, patience)
            outcomes.append(_without_pixels(outcome))
            if pictures := _pictures(outcome):
                layered, caption = outcome.layers is not None, outcome.caption or segment.caption
                told = layered, caption, outcome.quality, outcome.steps, outcome.seed
                return Edited(pictures, *told, _timings(outcomes))
            if outcome.step not in self.plan.partials(outcome.steps):
                outcome = replace(outcome, preview=None)
            segment = segment.following(outcome)
            await report(job, outcome)

    async def _sent(self, segment: Segment, patience: Patience) -> Outcome:
        """Sends the segment until the model has answered in its own words."""
        waits = back_off()
        fault_before: str | None = None
        while True:
            try:
                with self.admission.attempt():
                    return await self._call(segment, patience)
            except QueueFull:
                if not (segment.continued or self.admission.granted):
                    raise
                await asyncio.sleep(next(waits))
            except UnknownPictures:
                segment = replace(segment, named=False)
            except InvalidInput:
                # A model of the release before knows no names, and misses the pictures.
                if not segment.named:
                    raise
                segment = replace(segment, named=False)
            except Interrupted as fault:
                if isinstance(fault, TritonFault) and str(fault) == fault_before:
                    logger.error("Triton failed twice in the same way after step %d: %s", segment.start, fault)
                    raise GenerationError("Image generation failed: Triton failed twice in the same way") from fault
                fault_before = str(fault)
                if not isinstance(fault, Unreached):  # of which nothing was done
                    self.metrics.segments_interrupted.inc()
                logger.warning("Triton broke off after step %d, to be sent again: %s", segment.start, fault)
                await asyncio.sleep(next(waits))
                await self._wait_until_ready()

    async def _call(self, segment: Segment, patience: Patience) -> Outcome:
        started = time.monotonic()
        limit = patience.limit((segment.stop or segment.steps or 1) - segment.start)
        try:
            async with asyncio.timeout(limit):
                outcome = await self.model.run(segment, f"{self.edit_id}-{segment.job.index}")
        except TimeoutError:
            patience.ran_out()
            raise Interrupted(f"no answer within {limit:.0f} s") from None
        patience.answered(outcome.step - segment.start, time.monotonic() - started)
        self.metrics.segments.inc()
        return outcome

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


def _without_pixels(outcome: Outcome) -> Outcome:
    return replace(outcome, image=None, latents=None, preview=None, alpha=None, history=None, layers=None)


def _pictures(outcome: Outcome) -> tuple[Rendered, ...]:
    """None of an edit that is not finished."""
    if outcome.layers is not None:
        return tuple(Rendered(layer[..., :3], layer[..., 3]) for layer in outcome.layers)
    return () if outcome.image is None else (Rendered(outcome.image, outcome.alpha),)


def _timings(outcomes: list[Outcome]) -> dict[str, Any]:
    """The last segment's, with the stages' seconds of all; the encodings of later ones come from the cache."""
    seconds = {stage: round(sum(outcome.timings.get(stage, 0.0) for outcome in outcomes), 6) for stage in STAGES}
    first = outcomes[0].timings
    skipped = sum(outcome.timings.get("skipped", 0) for outcome in outcomes)
    return {
        **outcomes[-1].timings,
        **seconds,
        "skipped": skipped,
        "cache_hit": first.get("cache_hit"),
        "segments": len(outcomes),
    }
