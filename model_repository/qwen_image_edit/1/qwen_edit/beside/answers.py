"""Answers edits, for whichever thread knows what becomes of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qwen_edit.control.blame import Blame, Unblamed
from qwen_edit.device_errors import DeviceError, failure, is_device_error, may_be_the_devices
from qwen_edit.errors import BadRequest, Cancelled, EditError, Failed, UnknownPictures
from qwen_edit.job import Job, Result
from qwen_edit.metrics.protocol import Metrics
from qwen_edit.scheduling.line import Line

log = logging.getLogger("image_edit_server")

FAILURES_IN_A_ROW = 5  # edits that failed with no good step between them: the fault is the device's, not theirs


class Answers:
    """`changed` guards `line`, and is told of everyone who leaves it."""

    def __init__(self, line: Line, blame: Blame | Unblamed, metrics: Metrics, changed: threading.Condition) -> None:
        self._line = line
        self._blame = blame
        self._metrics = metrics
        self._changed = changed  # guards the counter too
        self._failures_in_a_row = 0

    def stepped(self) -> None:
        """A step was good."""
        with self._changed:
            self._failures_in_a_row = 0

    def result(self, job: Job, result: Result) -> None:
        self._metrics.ended(job.times.decode, spared=job.state.spared)
        log.log(logging.INFO if job.finished else logging.DEBUG, "edit %s: %s", job.request.id, job.account())
        outcome = job.outcome(result)
        sent = self._send(job, lambda: job.reply.outcome(outcome), stopped=not job.finished)
        if not sent:
            self._metrics.edit("failed")
        elif job.finished:
            self._metrics.edit("finished")

    def failure(self, job: Job, error: Exception) -> None:
        """Answers the job whose own failure it is; raises the device's."""
        if is_device_error(error):
            raise error
        answer = failure(error, job.request.id)
        if may_be_the_devices(error):
            with self._changed:
                self._failures_in_a_row += 1
                too_many = self._failures_in_a_row == FAILURES_IN_A_ROW
            if too_many:
                raise DeviceError(f"{FAILURES_IN_A_ROW} edits in a row failed, the last with {type(error).__name__}")
        self.error(job, answer)

    def error(self, job: Job, error: EditError) -> None:
        comes_again = isinstance(error, UnknownPictures)
        if not comes_again:
            self._metrics.edit({Cancelled: "cancelled", BadRequest: "refused"}.get(type(error), "failed"))
        log.info("edit %s: %s", job.request.id, error.message)
        self._send(job, lambda: job.reply.error(error), stopped=comes_again, failed=not comes_again)

    def _send(self, job: Job, send: Callable[[], None], *, stopped: bool = False, failed: bool = False) -> bool:
        """Whether that was sent, and not an error in its place; raises DeviceError where neither could be.

        The job is forgotten before it is answered: who gets the answer finds its place free.
        """
        with self._changed:
            self._line.leave(job, time.monotonic(), stopped=stopped, failed=failed)
            job.end()
            self._changed.notify_all()
        if not job.replaced:
            self._blame.end(job.request.edit_id)
        try:
            send()
            return True
        except Exception:
            log.exception("the answer of edit %s could not be sent", job.request.id)
        try:
            job.reply.error(Failed("the answer could not be sent"))
            return False
        except Exception as error:  # its caller would wait for ever, unless the connection ends with this process
            raise DeviceError(f"edit {job.request.id} cannot be answered: {error!r}") from error
