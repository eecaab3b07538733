"""Engines without a model: the real line and scheduler, whose forwards take exactly what their tokens cost.

Time is a number that the simulation moves on. An edit may run in segments, each on whichever engine a test says.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from qwen_edit.errors import QueueFull
from qwen_edit.job import Job, Phase, in_order
from qwen_edit.scheduling.line import Line
from qwen_edit.scheduling.pace import Pace
from qwen_edit.scheduling.schedule import next_batch

from tests.kit.engines import edit
from tests.kit.in_process import Answer

SECONDS_PER_TOKEN = 3.25e-5
BUDGET = 16_384  # tokens of a forward
TRANSIT = 0.02  # seconds between two segments


@dataclass(frozen=True)
class Wish:
    """What a client sends."""

    at: float
    steps: int
    tokens: int = 20_000  # of a forward: a guided edit of a megapixel, which fills it
    caller: str = ""
    patience: float = 290.0
    request: str = ""  # which it is of; empty: its own
    siblings: int = 1

    @property
    def work(self) -> float:
        return self.steps * self.tokens * SECONDS_PER_TOKEN


@dataclass(eq=False)
class Fate:
    wish: Wish
    number: int
    name: str
    refused: int | None = None  # Retry-After in seconds
    first_step: float | None = None
    ended: float | None = None
    died: bool = False  # out of time
    steps: int = 0
    companies: list[int] = field(default_factory=list)  # tokens of each of its forwards
    places: set[float] = field(default_factory=set)  # of its segments

    @property
    def late(self) -> bool:
        return self.died or (self.ended is not None and self.ended > self.wish.at + self.wish.patience)


class Held(Job):
    """Its steps are counted, not made."""

    done = 0

    @property
    def steps_left(self) -> int:
        return self.request.num_inference_steps - self.done

    @property
    def row_tokens(self) -> tuple[int, ...]:
        return self.expected


class SteadyPace(Pace):
    """Knows the price of a forward from the beginning."""

    known = True
    slower = 1.0

    def step(self, row_tokens: Sequence[int]) -> float:
        return self.slower * SECONDS_PER_TOKEN * sum(row_tokens)


class Engine:
    """One GPU, which at one moment becomes so many times as slow."""

    def __init__(
        self, stretch: float = 3.0, max_jobs: int = 10_000, *, falls_at: float = math.inf, slower: float = 1.0
    ) -> None:
        self.pace = SteadyPace()
        self.line = Line(self.pace, max_jobs=max_jobs, stretch=stretch)
        self.now = 0.0
        self.busy = 0.0
        self._falls_at, self._slower = falls_at, slower

    def forward(self, tokens: list[int]) -> None:
        if self.now >= self._falls_at:
            self.pace.slower = self._slower
        seconds = self.pace.step(tokens)
        self.now += seconds
        self.busy += seconds

    def batch(self) -> list[Held]:
        jobs = [job for job in self.line.jobs if isinstance(job, Held)]
        return next_batch(jobs, BUDGET, in_order)


class Simulation:
    """`where(fate, segment)` is the engine that gets an edit's next segment."""

    def __init__(
        self,
        wishes: Iterable[Wish],
        engines: list[Engine],
        *,
        segment_steps: int = 1000,
        where: Callable[[int, int], int] = lambda edit, segment: 0,
    ) -> None:
        self.engines = engines
        self.fates = [
            Fate(wish, number, f"{wish.request or f'r{number}'}-{number}") for number, wish in enumerate(wishes)
        ]
        self._segment_steps = segment_steps
        self._where = where
        self._numbers = itertools.count()
        # (time, number, fate, steps done, order): calls on their way
        self._calls: list[tuple[float, int, Fate, int, float | None]] = []
        for fate in self.fates:
            heapq.heappush(self._calls, (fate.wish.at, next(self._numbers), fate, 0, None))
        self._of: dict[Held, Fate] = {}

    def run(self) -> list[Fate]:
        while True:
            busy = [engine for engine in self.engines if engine.line.jobs]
            upcoming = self._calls[0][0] if self._calls else None
            if not busy and upcoming is None:
                return self.fates
            engine = min(busy, key=lambda each: each.now, default=None)
            if engine is None or (upcoming is not None and upcoming <= engine.now):
                self._deliver()
            else:
                self._step(engine)

    def _deliver(self) -> None:
        at, number, fate, done, order = heapq.heappop(self._calls)
        wish = fate.wish
        engine = self.engines[self._where(fate.number, done // self._segment_steps)]
        if not engine.line.jobs:
            engine.now = max(engine.now, at)
        request = edit(
            b"x", id=f"{fate.name}.{number}", edit_id=fate.name, num_inference_steps=wish.steps, start_step=done,
            stop_step=min(wish.steps, done + self._segment_steps), arrival=wish.at, deadline=wish.at + wish.patience,
            caller=wish.caller, siblings=wish.siblings, order=order,
        )  # fmt: skip
        job = Held(request, Answer(), number, expected=(wish.tokens,))
        job.done = done
        try:
            engine.line.join(job, max(at, engine.now), BUDGET)  # a forward is not interrupted
        except QueueFull as full:
            fate.refused = int(str(full).rsplit("retry in ", 1)[1].split()[0])
            return
        self._of[job] = fate
        fate.places.add(job.place)

    def _step(self, engine: Engine) -> None:
        for job in sorted((job for job in engine.line.jobs if isinstance(job, Held)), key=in_order):
            if engine.line.too_late(job, engine.now):
                self._die(engine, job)
        while batch := engine.batch():
            unworthy = [
                job for job in batch
                if job.phase is Phase.PREPARING and not engine.line.worth_beginning(job, engine.now, BUDGET)
            ]  # fmt: skip
            if not unworthy:
                break
            self._die(engine, unworthy[0])
        if not batch:
            return
        tokens = [tokens for job in batch for tokens in job.row_tokens]
        for job in batch:
            fate = self._of[job]
            fate.first_step = engine.now if fate.first_step is None else fate.first_step
            fate.companies.append(sum(tokens))
            job.phase = Phase.RUNNING
        engine.forward(tokens)
        for job in batch:
            self._moved(engine, job)

    def _moved(self, engine: Engine, job: Held) -> None:
        fate = self._of[job]
        job.done += 1
        fate.steps += 1
        if not job.steps_left:
            fate.ended = engine.now
            engine.line.leave(job, engine.now)
        elif not job.done % self._segment_steps:
            engine.line.leave(job, engine.now, stopped=True)
            call = engine.now + TRANSIT, next(self._numbers), fate, job.done, job.place
            heapq.heappush(self._calls, call)

    def _die(self, engine: Engine, job: Held) -> None:
        self._of[job].died = True
        engine.line.leave(job, engine.now, failed=True)
