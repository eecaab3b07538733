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
from qwen_edit.device_errors import DeviceError, is_device_error, is_out_of_memory
from qwen_edit.errors import BadRequest, Cancelled, Draining, EditError, Failed, QueueFull
from qwen_edit.intake import Intake
from qwen_edit.job import Job, Phase, Reply, by_arrival
from qwen_edit.metrics import Metrics
from qwen_edit.request import EditRequest, is_another_call
from qwen_edit.scheduling.pace import Pace
from qwen_edit.scheduling.schedule import next_batch
from qwen_edit.stepping import Stepper
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")

HEARTBEAT_SECONDS = 1.0
CANCELLATION_SECONDS = 0.5  # how often waiting edits are asked whether their client is still there
FAILURES_IN_A_ROW = 5  # edits that failed with no good step between them: the fault is the device's, not theirs

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
        blame: Blame | Unblamed = UNBLAMED,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._max_jobs = max_jobs
        self._blame = blame
        self._end_process = end_process
        self._stepper = Stepper(worker, max_batch_tokens, self._fail)
        self._clock = StepClock(worker.device, self._stepped)
        self._pace = Pace()
        self._numbers = itertools.count()
        self._jobs: set[Job] = set()  # every job that has not been answered
        self._prepared: list[Job] = []  # those that may be scheduled; the engine thread's own
        self._arrivals: list[Job] = []  # prepared ones on their way there
        self._ask_everybody_at = 0.0
        self._failures_in_a_row = 0
        self._draining = False
        self._closed = False
        self._changed = threading.Condition()  # guards _jobs, _arrivals, _draining, _closed
        self._intake = Intake(worker, self._on_prepared, metrics.picture)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EditRequest, reply: Reply) -> None:
        """Takes the job and returns at once; raises QueueFull, Draining or Failed. A continued edit is always taken.

        It takes the place of an earlier call of the same edit, which broke off unseen by us, or it would not be here.
        """
        with self._changed:
            earlier = [job for job in self._jobs if is_another_call(job.request, request)]
            if not request.continued:
                self._refuse_when_full(len(self._jobs) - len(earlier))
            job = Job(request, reply, next(self._numbers), alone=self._blame.take(request.edit_id))
            self._jobs.add(job)
            for replaced in earlier:
                replaced.replaced = True
        self._intake.submit(job)

    def drain(self) -> None:
        """Refuses new edits from now on; those under way, and continued ones, are still served."""
        with self._changed:
            self._draining = True

    def close(self) -> None:
        """Drains, finishes the jobs it has, and ends the threads."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._intake.close()
        self._worker.close()

    def _refuse_when_full(self, held: int) -> None:
        if self._draining:
            self._metrics.edit("refused")
            raise Draining("the server is stopping: send the edit to another, or again later")
        if held >= self._max_jobs:
            self._metrics.edit("refused")
            raise QueueFull(
                f"{held} edits are waiting or running, at most {self._max_jobs} are taken: "
                f"retry in {self._pace.retry_seconds(self._jobs)} s"
            )

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
                self._drop_cancelled()
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
        log.critical("the device failed, this worker ends, its edits (%d) unanswered: %s", len(self._jobs), reason)
        self._end_process(1)

    def _is_open(self) -> bool:
        with self._changed:
            return bool(self._jobs) or not self._closed

    def _report(self) -> None:
        running = sum(job.phase is Phase.RUNNING for job in self._prepared)
        usage = self._worker.usage()
        self._metrics.heartbeat(time.time())
        self._metrics.jobs(len(self._jobs) - running, running)
        self._metrics.cache(usage.cache_hits, usage.cache_misses, usage.cache_bytes)
        self._metrics.gpu_peak(usage.gpu_peak_bytes)

    def _take(self) -> bool:
        """Takes over what has been prepared; waits for it, a heartbeat long, where there is nothing else to do.

        Whether it has waited for it.
        """
        with self._changed:
            idle = not self._prepared and not self._arrivals
            if idle and not (self._closed and not self._jobs):
                self._changed.wait(HEARTBEAT_SECONDS)
            self._prepared += self._arrivals
            self._arrivals.clear()
            return idle and bool(self._prepared)

    def _drop_cancelled(self) -> None:
        """Asks about running edits before each of their steps, about waiting ones now and then: asking has a price."""
        everybody = time.monotonic() >= self._ask_everybody_at
        if everybody:
            self._ask_everybody_at = time.monotonic() + CANCELLATION_SECONDS
        for job in list(self._prepared):
            if (everybody or job.phase is Phase.RUNNING) and job.unwanted:
                self._finish_with_error(job, Cancelled("the client cancelled this edit"))

    def _step(self) -> list[Job]:
        """One step for the next batch: those whose run is done."""
        batch = next_batch(self._prepared, self._stepper.budget, by_arrival)
        batch = [job for job in batch if self._encoded(job)]
        if not batch:
            return []
        moved = self._clock.run(lambda: self._stepper.step(batch))
        return [job for job in moved if job.state.step >= job.request.stop_step]

    def _encoded(self, job: Job) -> bool:
        """Encodes a waiting job; False where that failed and was answered."""
        if job.phase is Phase.RUNNING:
            return True
        started = time.monotonic()
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
        self._metrics.seconds("queue", job.times.queue)
        self._metrics.seconds("encode", job.times.encode)
        return True

    def _stepped(self, advanced: list[Job], elapsed: float) -> None:
        """Told by the clock; on a GPU a step later."""
        rows = sum(job.rows for job in advanced)
        for job in advanced:
            job.times.denoise += elapsed
            job.times.steps += 1
            job.times.rows += rows
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
        self._metrics.seconds("decode", job.times.decode)
        if job.finished:
            self._metrics.edit("finished")
        log.log(logging.INFO if job.finished else logging.DEBUG, "edit %s: %s", job.request.id, job.account())
        outcome = job.outcome(result)
        self._prepared.remove(job)
        self._answer(job, lambda: job.reply.outcome(outcome))

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
        failure = _failure(error, job)
        if not (isinstance(error, EditError) or is_out_of_memory(error)):
            self._failures_in_a_row += 1
            if self._failures_in_a_row == FAILURES_IN_A_ROW:
                raise DeviceError(f"{FAILURES_IN_A_ROW} edits in a row failed, the last with {type(error).__name__}")
        self._finish_with_error(job, failure)

    def _finish_with_error(self, job: Job, error: EditError) -> None:
        self._prepared.remove(job)
        self._answer_with_error(job, error)

    def _answer_with_error(self, job: Job, error: EditError) -> None:
        outcome = {Cancelled: "cancelled", BadRequest: "refused"}.get(type(error), "failed")
        self._metrics.edit(outcome)
        log.info("edit %s: %s", job.request.id, error.message)
        self._answer(job, lambda: job.reply.error(error))

    def _answer(self, job: Job, send: Callable[[], None]) -> None:
        """The job is forgotten before it is answered: who gets the answer finds its place free."""
        with self._changed:
            self._jobs.remove(job)
            job.end()
            self._changed.notify_all()
        if not job.replaced:
            self._blame.end(job.request.edit_id)
        try:
            send()
        except Exception:
            log.exception("the answer of edit %s could not be sent", job.request.id)


def _failure(error: Exception, job: Job) -> EditError:
    """What the client reads; the details are in the log."""
    if isinstance(error, EditError):
        return error
    log.error("edit %s failed", job.request.id, exc_info=error)
    if is_out_of_memory(error):
        return Failed("out of memory: ask for a smaller size or fewer reference images")
    return Failed("the model failed on this edit")
