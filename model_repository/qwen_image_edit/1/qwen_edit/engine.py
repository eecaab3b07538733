"""The engine: continuous batching of denoising steps.

One thread makes the steps. It takes the first job and those that fit beside it, moves them one step on, hands over the
ones that are done, and looks again: jobs join and leave between steps. They are encoded and decoded beside it.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

import torch

from qwen_edit.beside.answers import Answers
from qwen_edit.beside.coder import Coder
from qwen_edit.beside.intake import Intake
from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.clock import StepClock
from qwen_edit.control.blame import Blame, Unblamed
from qwen_edit.device_errors import DeviceError, is_device_error
from qwen_edit.errors import Cancelled, Draining, EditError, Failed, QueueFull
from qwen_edit.forward.denoise import Denoising
from qwen_edit.job import Job, Phase, Reply, in_order
from qwen_edit.metrics.protocol import Metrics
from qwen_edit.pictures.decoders import at_once
from qwen_edit.request import EditRequest
from qwen_edit.scheduling.line import Line
from qwen_edit.scheduling.pace import Pace
from qwen_edit.scheduling.schedule import next_batch
from qwen_edit.stepping import Stepper
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")

HEARTBEAT_SECONDS = 1.0
CANCELLATION_SECONDS = 0.5  # how often waiting edits are asked whether their client is still there

OUT_OF_TIME = "out of time: what is left of this edit takes longer than its caller waits"

UNBLAMED = Unblamed()
CODING = (Phase.ENCODING, Phase.DECODING)  # handed over; whoever is at it answers
LEAVING = (Phase.DECODING, Phase.DONE)


class Engine:
    def __init__(
        self,
        worker: Worker,
        metrics: Metrics,
        *,
        max_jobs: int,
        max_batch_tokens: int,
        stretch: float = 3.0,
        blame: Blame | Unblamed = UNBLAMED,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._blame = blame
        self._end_process = end_process
        self._device = SharedDevice(lambda: worker.free_memory(encodings=True))
        self._pace = Pace()
        self._line = Line(self._pace, max_jobs=max_jobs, stretch=stretch)
        self._changed = threading.Condition()  # guards _line, _arrivals, _broken, draining, _closed
        self._answers = Answers(self._line, blame, metrics, self._changed)
        self._stepper = Stepper(worker, self._device, max_batch_tokens, self._answers.failure)
        self._clock = StepClock(worker.devices.transformer, self._stepped)
        self._numbers = itertools.count()
        self._prepared: list[Job] = []  # those that may be scheduled; the engine thread's own
        self._arrivals: list[Job] = []  # prepared ones on their way there
        self._ask_everybody_at = 0.0
        self._broken: Exception | None = None  # the device's, met by another thread
        self.draining = False
        self._closed = False
        self._coder = Coder(worker, self._device, self._pace, self._answers, self._on_encoded, self._on_broken)
        self._intake = Intake(
            worker, self._device, self._on_prepared, metrics.picture, self._on_broken,
            alive=lambda: metrics.heartbeat(time.time()), decoding=at_once(),
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EditRequest, reply: Reply) -> None:
        """Takes the job and returns at once; raises BadRequest, QueueFull, Draining or Failed."""
        job = Job(request, reply, next(self._numbers), expected=self._worker.expected_tokens(request))
        with self._changed:
            try:
                if self.draining and not request.continued:
                    raise Draining("the server is stopping: send the edit to another, or again later")
                self._line.join(job, time.monotonic(), self._stepper.budget)
            except (Draining, QueueFull):
                self._metrics.edit("refused")
                raise
            try:
                job.alone = self._blame.take(request.edit_id)
            except Failed:
                self._line.leave(job, time.monotonic(), failed=True)
                raise
        self._intake.submit(job)

    def drain(self) -> None:
        """Refuses new edits from now on; those under way, and continued ones, are still served."""
        with self._changed:
            self.draining = True

    def close(self) -> None:
        """Drains, finishes the jobs it has, and ends the threads."""
        with self._changed:
            self.draining = self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._intake.close()
        self._coder.close()
        self._worker.close()

    def _on_prepared(self, job: Job, error: EditError | None) -> None:
        """Called on the intake's threads."""
        if error is not None:
            self._answers.error(job, error)
            return
        with self._changed:
            self._arrivals.append(job)
            self._changed.notify_all()

    @torch.inference_mode()
    def _run(self) -> None:
        device = self._worker.devices.transformer
        if device.type == "cuda":
            torch.cuda.set_device(device)
        while self._is_open():
            try:
                self._report()
                if self._take():
                    self._report()  # what comes now can take longer than a heartbeat
                self._drop_unwanted()
                ready = self._ready()  # first: what is handed over now holds up nobody who is encoded
                self._have_encoded()
                self._have_decoded(self._step(ready))  # a loop here would keep its last job until there is another
            except Exception as error:
                if is_device_error(error):
                    self._end_unanswered(error)
                    return
                # A bug of ours must not leave callers waiting for ever.
                log.exception("the engine failed outside of any one edit")
                for job in self._prepared:
                    self._drop(job, Failed("the engine failed"))

    def _end_unanswered(self, error: Exception) -> None:
        """Ends the process, in which no edit can succeed any more; whoever waits for one sends it again."""
        reason = str(error).split("\n", 1)[0]
        log.critical("the device failed, this worker ends, its edits (%d) unanswered: %s", len(self._line.jobs), reason)
        self._end_process(1)

    def _is_open(self) -> bool:
        with self._changed:
            return bool(self._line.jobs) or not self._closed

    def _report(self) -> None:
        with self._changed:
            held, away = len(self._line.jobs), self._line.away(time.monotonic())
            running = sum(job.is_encoded for job in self._line.jobs)
        usage = self._worker.usage()
        if self._coder.seconds_busy < HEARTBEAT_SECONDS:  # else it may hang, whatever steps are made meanwhile
            self._metrics.heartbeat(time.time())
        self._metrics.jobs(held - running, running)
        self._metrics.away(away)
        self._metrics.cache(usage.cache_hits, usage.cache_misses, usage.cache_bytes)
        self._metrics.prefixes(usage.prefixes)
        self._metrics.gpu_peak(usage.gpu_peak_bytes)

    def _take(self) -> bool:
        """Takes over what has been prepared; waits, a heartbeat long, where there is nothing to do.

        Whether it has waited for an edit.
        """
        with self._changed:
            idle = not self._prepared
            if not (self._has_news() or (self._closed and not self._line.jobs)):
                self._changed.wait(HEARTBEAT_SECONDS)
            if self._broken is not None:
                raise self._broken
            self._prepared = [job for job in self._prepared if job.phase is not Phase.DONE] + self._arrivals
            self._arrivals.clear()
            return idle and bool(self._prepared)

    def _has_news(self) -> bool:
        """Whether there is a step to make, or to look again at who is next."""
        left = any(job.phase is Phase.DONE for job in self._prepared)
        return left or bool(self._arrivals or self._ready()) or self._broken is not None

    def _ready(self) -> list[Job]:
        """For a step. Those that were handed over together begin together: a forward of many costs less than theirs."""
        phases = {job.phase for job in self._prepared}
        allowed = (Phase.RUNNING,) if Phase.ENCODING in phases else (Phase.RUNNING, Phase.ENCODED)
        return [job for job in self._prepared if job.phase in allowed]

    def _drop_unwanted(self) -> None:
        """Asks about running edits before each of their steps, about waiting ones now and then: asking has a price.

        What cannot end in time is not wanted either.
        """
        everybody = time.monotonic() >= self._ask_everybody_at
        if everybody:
            self._ask_everybody_at = time.monotonic() + CANCELLATION_SECONDS
        for job in self._prepared:
            asked = everybody or job.phase is Phase.RUNNING
            if asked and (error := job.why_unwanted()) is not None:
                self._drop(job, error)
            elif job.phase is not Phase.DECODING and self._line.too_late(job, time.monotonic()):
                self._drop(job, Cancelled(OUT_OF_TIME))

    def _drop(self, job: Job, error: EditError) -> None:
        """Answers it, unless another thread does."""
        phase = job.phase  # read once: the coder may be about to answer it
        if phase is not Phase.DONE and (phase not in CODING or self._coder.withdraw(job)):
            self._answers.error(job, error)

    def _have_encoded(self) -> None:
        """Hands over those that are next, when all that were handed over before are encoded."""
        if any(job.phase is Phase.ENCODING for job in self._prepared):
            return
        staying = [job for job in self._prepared if job.phase not in LEAVING]
        for job in next_batch(staying, self._stepper.budget, in_order):
            if job.phase is not Phase.WAITING:
                continue
            with self._changed:
                worth_it = self._line.worth_beginning(job, time.monotonic(), self._stepper.budget)
                job.phase = Phase.ENCODING
            if worth_it:
                self._coder.add(job)
            else:
                self._answers.error(job, Cancelled(OUT_OF_TIME))

    def _step(self, ready: list[Job]) -> list[Job]:
        """One step for the next batch of these: those whose run is done."""
        if self._worker.takes_turns:
            self._coder.settle()
        with self._device.shared():  # who is alone gives back what this looks through
            batch = self._worker.fitting(next_batch(ready, self._stepper.budget, in_order))
        batch = [job for job in batch if self._begun(job)]
        ended = [job for job in batch if job.at_stop]  # by steps that needed no forward
        due = [job for job in batch if not job.at_stop]
        if not due:
            self._clock.settle()  # what is under way may be the last step of an edit that nobody wants any more
            return ended
        return ended + [job for job in self._clock.run(lambda: self._stepper.step(due)) if job.at_stop]

    def _begun(self, job: Job) -> bool:
        """Makes what an encoded job needs for its first step; False where that failed and was answered."""
        if job.phase is Phase.RUNNING:
            return True
        started = time.monotonic()
        try:
            self._device.made(lambda: self._worker.begin(job))
        except Exception as error:
            self._answers.failure(job, error)
            return False
        job.times.encode += time.monotonic() - started
        job.phase = Phase.RUNNING
        self._metrics.began(job.times.queue, job.times.encode, new=not job.request.continued)
        return True

    def _stepped(self, advanced: list[Job], elapsed: float) -> None:
        """Told by the clock; on a GPU a step later."""
        rows = sum(job.rows for job in advanced)
        for job in advanced:
            job.times.denoise += elapsed
            job.times.steps += 1
            job.times.rows += rows
            if job.times.steps == 1 and not job.request.continued:
                self._metrics.first_step(time.monotonic() - job.times.submitted)
        if advanced:
            self._answers.stepped()
            self._pace.stepped(advanced, elapsed)
            self._metrics.step(len(advanced), rows)
            self._metrics.seconds("denoise", elapsed)

    def _have_decoded(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._clock.settle()
            job.phase = Phase.DECODING
            self._coder.add(job)

    def _on_encoded(self, job: Job, state: Denoising) -> None:
        """Called on the coder's thread, as the next."""
        with self._changed:
            job.start(state)
            self._changed.notify_all()

    def _on_broken(self, error: Exception) -> None:
        """Called on a thread of the coder's or the intake's, which ends: what it did is not done any more."""
        name = threading.current_thread().name
        with self._changed:
            self._broken = error if is_device_error(error) else DeviceError(f"the thread {name!r} ended: {error!r}")
            self._changed.notify_all()
