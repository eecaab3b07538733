"""The engine: continuous batching of denoising steps.

One thread owns the model. It takes the oldest job and those that fit beside it, moves them one step on, answers the
ones that are done, and looks again: jobs join and leave between steps.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from qwen_edit.clock import StepClock
from qwen_edit.control.blame import Blame, Unblamed
from qwen_edit.device_errors import DeviceError, failure, is_device_error, is_out_of_memory
from qwen_edit.errors import BadRequest, Cancelled, Draining, EditError, Failed, QueueFull, UnknownPictures
from qwen_edit.intake import Intake
from qwen_edit.job import Job, Phase, Reply, in_order
from qwen_edit.metrics.protocol import Metrics
from qwen_edit.request import EditRequest
from qwen_edit.scheduling.line import Line
from qwen_edit.scheduling.pace import Pace
from qwen_edit.scheduling.schedule import next_batch
from qwen_edit.stepping import Stepper
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")

HEARTBEAT_SECONDS = 1.0
CANCELLATION_SECONDS = 0.5  # how often waiting edits are asked whether their client is still there
FAILURES_IN_A_ROW = 5  # edits that failed with no good step between them: the fault is the device's, not theirs

OUT_OF_TIME = "out of time: what is left of this edit takes longer than its caller waits"

UNBLAMED = Unblamed()
Made = TypeVar("Made")


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
        self._stepper = Stepper(worker, max_batch_tokens, self._fail)
        self._clock = StepClock(worker.device, self._stepped)
        self._pace = Pace()
        self._line = Line(self._pace, max_jobs=max_jobs, stretch=stretch)
        self._numbers = itertools.count()
        self._prepared: list[Job] = []  # those that may be scheduled; the engine thread's own
        self._arrivals: list[Job] = []  # prepared ones on their way there
        self._ask_everybody_at = 0.0
        self._failures_in_a_row = 0
        self.draining = False
        self._closed = False
        self._changed = threading.Condition()  # guards _line, _arrivals, draining, _closed
        self._intake = Intake(worker, self._on_prepared, metrics.picture)
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
        self._worker.close()

    def _on_prepared(self, job: Job, error: EditError | None) -> None:
        """Called on the intake's threads."""
        if error is not None:
            self._answer_with_error(job, error)
            return
        with self._changed:
            self._arrivals.append(job)
            self._changed.notify_all()

    @torch.inference_mode()
    def _run(self) -> None:
        if self._worker.device.type == "cuda":
            torch.cuda.set_device(self._worker.device)
        while self._is_open():
            try:
                self._report()
                if self._take():
                    self._report()  # what comes now can take longer than a heartbeat
                self._drop_unwanted()
                for job in self._step():
                    self._finish(job)
            except Exception as error:
                if is_device_error(error):
                    self._end_unanswered(error)
                    return
                # A bug of ours must not leave callers waiting for ever.
                log.exception("the engine failed outside of any one edit")
                for job in list(self._prepared):
                    self._finish_with_error(job, Failed("the engine failed"))

    def _end_unanswered(self, error: Exception) -> None:
        """Ends the process, in which no edit can succeed any more; whoever waits for one sends it again."""
        reason = str(error).split("\n", 1)[0]
        log.critical("the device failed, this worker ends, its edits (%d) unanswered: %s", len(self._line.jobs), reason)
        self._end_process(1)

    def _is_open(self) -> bool:
        with self._changed:
            return bool(self._line.jobs) or not self._closed

    def _report(self) -> None:
        running = sum(job.phase is Phase.RUNNING for job in self._prepared)
        with self._changed:
            held, away = len(self._line.jobs), self._line.away(time.monotonic())
        usage = self._worker.usage()
        self._metrics.heartbeat(time.time())
        self._metrics.jobs(held - running, running)
        self._metrics.away(away)
        self._metrics.cache(usage.cache_hits, usage.cache_misses, usage.cache_bytes)
        self._metrics.prefixes(usage.prefixes)
        self._metrics.gpu_peak(usage.gpu_peak_bytes)

    def _take(self) -> bool:
        """Takes over what has been prepared; waits for it, a heartbeat long, where there is nothing else to do.

        Whether it has waited for it.
        """
        with self._changed:
            idle = not self._prepared and not self._arrivals
            if idle and not (self._closed and not self._line.jobs):
                self._changed.wait(HEARTBEAT_SECONDS)
            self._prepared += self._arrivals
            self._arrivals.clear()
            return idle and bool(self._prepared)

    def _drop_unwanted(self) -> None:
        """Asks about running edits before each of their steps, about waiting ones now and then: asking has a price.

        What cannot end in time is not wanted either.
        """
        everybody = time.monotonic() >= self._ask_everybody_at
        if everybody:
            self._ask_everybody_at = time.monotonic() + CANCELLATION_SECONDS
        for job in list(self._prepared):
            if (everybody or job.phase is Phase.RUNNING) and job.unwanted:
                self._finish_with_error(job, Cancelled())
            elif self._line.too_late(job, time.monotonic()):
                self._finish_with_error(job, Cancelled(OUT_OF_TIME))

    def _step(self) -> list[Job]:
        """One step for the next batch: those whose run is done."""
        batch = self._worker.fitting(next_batch(self._prepared, self._stepper.budget, in_order))
        batch = [job for job in batch if self._encoded(job)]
        ended = [job for job in batch if job.at_stop]  # by steps that needed no forward
        due = [job for job in batch if not job.at_stop]
        moved = self._clock.run(lambda: self._stepper.step(due)) if due else []
        return ended + [job for job in moved if job.at_stop]

    def _encoded(self, job: Job) -> bool:
        """Encodes a waiting job; False where that failed and was answered."""
        if job.phase is Phase.RUNNING:
            return True
        started = time.monotonic()
        with self._changed:
            worth_it = self._line.worth_beginning(job, started, self._stepper.budget)
        if not worth_it:
            self._finish_with_error(job, Cancelled(OUT_OF_TIME))
            return False
        job.times.queue = started - job.times.submitted
        misses = self._worker.usage().cache_misses
        try:
            state = self._with_memory(lambda: self._worker.encode(job))
        except Exception as error:
            self._fail(job, error)
            return False
        job.start(state)
        job.times.encode = time.monotonic() - started
        job.times.cache_hit = self._worker.usage().cache_misses == misses
        if not job.times.cache_hit:
            self._pace.encoded(job.row_tokens, job.times.encode)
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
            self._failures_in_a_row = 0
            self._pace.stepped(advanced, elapsed)
            self._metrics.step(len(advanced), rows)
            self._metrics.seconds("denoise", elapsed)

    def _finish(self, job: Job) -> None:
        self._clock.settle()
        started = time.monotonic()
        try:
            result = self._with_memory(lambda: self._worker.decode(job))
        except Exception as error:
            self._fail(job, error)
            return
        job.times.decode = time.monotonic() - started
        self._metrics.ended(job.times.decode, spared=job.state.spared)
        if job.finished:
            self._pace.decoded(job.row_tokens, job.times.decode)
            self._metrics.edit("finished")
        log.log(logging.INFO if job.finished else logging.DEBUG, "edit %s: %s", job.request.id, job.account())
        outcome = job.outcome(result)
        self._prepared.remove(job)
        self._answer(job, lambda: job.reply.outcome(outcome), stopped=not job.finished)

    def _with_memory(self, work: Callable[[], Made]) -> Made:
        """`work()`, tried once more with freed memory where it ran out."""
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("out of memory while encoding or decoding: freeing the cache")
        # Not in the `except`: the error's traceback keeps all that the failed work has allocated.
        self._worker.free_memory(encodings=True)
        return work()

    def _fail(self, job: Job, error: Exception) -> None:
        """Answers the job whose own failure it is; raises the device's."""
        if is_device_error(error):
            raise error
        answer = failure(error, job.request.id)
        if not (isinstance(error, EditError) or is_out_of_memory(error)):
            self._failures_in_a_row += 1
            if self._failures_in_a_row == FAILURES_IN_A_ROW:
                raise DeviceError(f"{FAILURES_IN_A_ROW} edits in a row failed, the last with {type(error).__name__}")
        self._finish_with_error(job, answer)

    def _finish_with_error(self, job: Job, error: EditError) -> None:
        self._prepared.remove(job)
        self._answer_with_error(job, error)

    def _answer_with_error(self, job: Job, error: EditError) -> None:
        comes_again = isinstance(error, UnknownPictures)
        if not comes_again:
            self._metrics.edit({Cancelled: "cancelled", BadRequest: "refused"}.get(type(error), "failed"))
        log.info("edit %s: %s", job.request.id, error.message)
        self._answer(job, lambda: job.reply.error(error), stopped=comes_again, failed=not comes_again)

    def _answer(self, job: Job, send: Callable[[], None], *, stopped: bool = False, failed: bool = False) -> None:
        """The job is forgotten before it is answered: who gets the answer finds its place free."""
        with self._changed:
            self._line.leave(job, time.monotonic(), stopped=stopped, failed=failed)
            job.end()
            self._changed.notify_all()
        if not job.replaced:
            self._blame.end(job.request.edit_id)
        try:
            send()
        except Exception:
            log.exception("the answer of edit %s could not be sent", job.request.id)
