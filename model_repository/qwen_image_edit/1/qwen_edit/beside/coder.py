"""Encodes and decodes on a thread of its own, so that no denoising step waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch

from qwen_edit.beside.answers import Answers
from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.beside.streams import OwnStreams
from qwen_edit.errors import Cancelled
from qwen_edit.forward.denoise import Denoising
from qwen_edit.job import Job, Phase, Result, in_order
from qwen_edit.scheduling.pace import Pace
from qwen_edit.worker import Worker


class Coder:
    """One job at a time, the first by the engine's order before the others: encoded or decoded, as its phase says.

    On its thread it calls `encoded(job, state)`, and answers the jobs that it decodes, or that fail. It ends at the
    first error that is no job's own, the device's or a bug's, which it hands to `broken`.
    """

    def __init__(
        self,
        worker: Worker,
        device: SharedDevice,
        pace: Pace,
        answers: Answers,
        encoded: Callable[[Job, Denoising], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._worker = worker
        self._device = device
        self._pace = pace
        self._answers = answers
        self._encoded = encoded
        self._broken = broken
        self._waiting: list[Job] = []
        self._busy_since: float | None = None
        self._closed = False
        self._changed = threading.Condition()  # guards the three
        self._streams = OwnStreams(worker.devices)
        self._thread = threading.Thread(target=self._run, name="code", daemon=True)
        self._thread.start()

    def add(self, job: Job) -> None:
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def withdraw(self, job: Job) -> bool:
        """Whether the job was still waiting, and is forgotten."""
        with self._changed:
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
            return waits

    def settle(self) -> None:
        """Waits until nothing is left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not (self._waiting or self._busy_since))

    @property
    def seconds_busy(self) -> float:
        """With what it is at."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Ends what it is at; what still waits stays unanswered."""
        self._close()
        self._thread.join()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @torch.inference_mode()
    def _run(self) -> None:
        with self._streams.entered():
            try:
                while (job := self._next()) is not None:
                    self._code(job)
                    del job  # else it would be kept, with its state, until there is another
            except Exception as error:
                self._close()
                self._broken(error)

    def _next(self) -> Job | None:
        with self._changed:
            self._busy_since = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            job = min(self._waiting, key=in_order)
            self._waiting.remove(job)
            self._busy_since = time.monotonic()
            return job

    def _code(self, job: Job) -> None:
        try:
            if job.unwanted:
                raise Cancelled()
            if job.phase is Phase.ENCODING:
                self._encoded(job, self._encode(job))
            else:
                self._answers.result(job, self._decode(job))
        except Exception as error:
            self._answers.failure(job, error)

    def _encode(self, job: Job) -> Denoising:
        started, misses = time.monotonic(), self._worker.usage().cache_misses
        job.times.queue = started - job.times.submitted
        state = self._device.made(lambda: self._worker.encode(job))
        self._streams.hand_over(state.tensors())
        job.times.encode = time.monotonic() - started
        job.times.cache_hit = self._worker.usage().cache_misses == misses
        if not job.times.cache_hit:
            self._pace.encoded(job.row_tokens, job.times.encode)
        return state

    def _decode(self, job: Job) -> Result:
        started = time.monotonic()
        result = self._device.made(lambda: self._worker.decode(job))
        job.times.decode = time.monotonic() - started
        if job.finished:
            self._pace.decoded(job.row_tokens, job.times.decode)
        return result
