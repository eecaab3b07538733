"""Prepares new jobs on a thread of its own, so that no denoising step waits for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from qwen_edit.errors import EditError, Failed
from qwen_edit.job import Job
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")


class Intake:
    """`done(job, None)` or `done(job, error)` is called from its thread for every job it was given."""

    def __init__(self, worker: Worker, done: Callable[[Job, EditError | None], None]) -> None:
        self._worker = worker
        self._done = done
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._done(job, self._prepare(job))

    def _prepare(self, job: Job) -> EditError | None:
        try:
            job.queue(self._worker.prepare(job.request))
        except EditError as error:
            return error
        except Exception:
            log.exception("edit %s could not be prepared", job.request.id)
            return Failed("the request could not be prepared")
        return None
