"""The engine in this process, without Triton: metrics, a worker and replies that remember, and can be waited for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from qwen_edit.conditioning.preparation import Prepared, Preparing
from qwen_edit.engine import Engine
from qwen_edit.errors import EditError
from qwen_edit.families.family import Size
from qwen_edit.forward.denoise import Denoising
from qwen_edit.job import Job, Outcome, Result
from qwen_edit.metrics.protocol import NO_PREFIXES, PrefixUsage
from qwen_edit.pipeline import Devices
from qwen_edit.request import EditRequest
from qwen_edit.worker import Usage, Worker

GAP_SECONDS = 0.05  # between the arrivals of two edits


@dataclass
class Watch:
    """Metrics that remember."""

    edits: Counter[str] = field(default_factory=Counter)
    batches: list[tuple[int, int]] = field(default_factory=list)  # (jobs, rows) of every step
    cache_counts: tuple[int, int] = (0, 0)  # hits, misses
    pictures: int = 0
    steps_spared: int = 0
    held: tuple[int, int] = (0, 0)  # waiting, running
    prefix_usage: PrefixUsage = NO_PREFIXES
    begun: Counter[bool] = field(default_factory=Counter)  # runs, by whether the edit was new
    first_steps: int = 0

    def edit(self, outcome: str) -> None:
        self.edits[outcome] += 1

    def picture(self) -> None:
        self.pictures += 1

    def began(self, queue_seconds: float, encode_seconds: float, *, new: bool) -> None:
        self.begun[new] += 1

    def first_step(self, seconds: float) -> None:
        self.first_steps += 1

    def step(self, jobs: int, rows: int) -> None:
        self.batches.append((jobs, rows))

    def ended(self, decode_seconds: float, *, spared: int) -> None:
        self.steps_spared += spared

    def seconds(self, stage: str, seconds: float) -> None:
        pass

    def jobs(self, waiting: int, running: int) -> None:
        self.held = waiting, running

    def away(self, edits: int) -> None:
        pass

    def cache(self, hits: int, misses: int, size: int) -> None:
        self.cache_counts = hits, misses

    def prefixes(self, usage: PrefixUsage) -> None:
        self.prefix_usage = usage

    def gpu_peak(self, size: int) -> None:
        pass

    def heartbeat(self, unix_seconds: float) -> None:
        pass


class WatchedWorker:
    """A worker that remembers what it did, and that a test can hold up or lead astray."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.prepared = 0
        self.encodings = 0
        self.batches: list[list[str]] = []  # ids of the edits in every step, also in one that fails
        self.final_latents: dict[str, npt.NDArray[np.float32]] = {}  # (tokens, channels), by the edit's id
        self.encoded: dict[str, Callable[[Denoising], None]] = {}  # called with the state of the edit of that id
        self.before_encoding: Callable[[Job], object] = lambda job: None
        self.before_decoding: Callable[[Job], object] = lambda job: None
        self.before_step: Callable[[], object] = lambda: None
        self.before_freeing: Callable[[], object] = lambda: None

    @property
    def devices(self) -> Devices:
        return self._worker.devices

    @property
    def takes_turns(self) -> bool:
        return self._worker.takes_turns

    def expected_tokens(self, request: EditRequest) -> tuple[int, ...]:
        return self._worker.expected_tokens(request)

    def prepare(self, request: EditRequest, unwanted: Callable[[], bool]) -> Preparing:
        prepared = yield from self._worker.prepare(request, unwanted)
        self.prepared += 1
        return prepared

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        return self._worker.fitting(jobs)

    def encode(self, job: Job) -> Denoising:
        self.before_encoding(job)
        state = self._worker.encode(job)
        if job.request.id in self.encoded:
            self.encoded[job.request.id](state)
        self.encodings += 1
        return state

    def begin(self, job: Job) -> None:
        self._worker.begin(job)

    def step(self, jobs: Sequence[Job], *, rows_per_forward: int | None = None) -> None:
        self.batches.append([job.request.id for job in jobs])
        self.before_step()
        self._worker.step(jobs, rows_per_forward=rows_per_forward)

    def decode(self, job: Job) -> Result:
        self.before_decoding(job)
        self.final_latents[job.request.id] = job.state.latents.cpu().numpy()
        return self._worker.decode(job)

    def free_memory(self, *, encodings: bool) -> None:
        self.before_freeing()
        self._worker.free_memory(encodings=encodings)

    def usage(self) -> Usage:
        return self._worker.usage()

    def close(self) -> None:
        self._worker.close()


def prepared(preparing: Preparing) -> Prepared:
    while True:
        try:
            next(preparing)
        except StopIteration as end:
            return cast("Prepared", end.value)


@dataclass
class Answer:
    """A reply that keeps what it was given."""

    outcome_given: Outcome | None = None
    error_given: EditError | None = None
    answered_at: float = 0.0
    cancel: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def outcome(self, outcome: Outcome) -> None:
        assert not self._done.is_set()
        self.outcome_given = outcome
        self._finish()

    def error(self, error: EditError) -> None:
        assert not self._done.is_set()
        self.error_given = error
        self._finish()

    def sized(self, size: Size) -> None:
        pass

    def cancelled(self) -> bool:
        return self.cancel

    def _finish(self) -> None:
        self.answered_at = time.monotonic()
        self._done.set()

    def wait(self, seconds: float = 60.0) -> Outcome:
        """The outcome; raises the edit's error."""
        assert self._done.wait(seconds), "the engine never answered"
        if self.error_given is not None:
            raise self.error_given
        assert self.outcome_given is not None
        return self.outcome_given


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def run_in_segments(engine: Engine, requests: list[EditRequest], segments: int) -> tuple[list[int], list[float]]:
    """Sends the requests 50 ms apart, each in so many segments; the order they ended in, and their latencies."""
    ended = [0.0] * len(requests)
    latencies = [0.0] * len(requests)

    def client(number: int, request: EditRequest) -> None:
        started = time.monotonic()
        ended[number] = _send(engine, request, segments)
        latencies[number] = ended[number] - started

    threads = []
    for number, request in enumerate(requests):
        arrived = replace(request, arrival=time.monotonic())
        threads.append(threading.Thread(target=client, args=(number, arrived)))
        threads[-1].start()
        time.sleep(GAP_SECONDS)
    for thread in threads:
        thread.join()
    return sorted(range(len(requests)), key=ended.__getitem__), latencies


def _send(engine: Engine, request: EditRequest, segments: int) -> float:
    """When the engine answered the last segment, by the monotonic clock."""
    latents: npt.NDArray[np.float32] | None = None
    length = request.num_inference_steps // segments
    for start in range(0, request.num_inference_steps, length):
        answer = Answer()
        engine.submit(replace(request, start_step=start, stop_step=start + length, latents=latents), answer)
        latents = answer.wait().latents
    return answer.answered_at
