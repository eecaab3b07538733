"""One step for a batch of jobs whatever happens: a failure stays with its job, and memory is made do with."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.device_errors import is_device_error, is_out_of_memory
from qwen_edit.job import Job, in_order
from qwen_edit.scheduling.schedule import batch_tokens, next_batch
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")

# After running out of memory less is tried; and more again after this many steps without.
RECOVERY_STEPS = 500


class Stepper:
    """`fail(job, error)` is called for a job that fails alone; errors of the device are raised."""

    def __init__(
        self, worker: Worker, device: SharedDevice, max_batch_tokens: int, fail: Callable[[Job, Exception], None]
    ) -> None:
        self.budget = max_batch_tokens
        self._max_batch_tokens = max_batch_tokens
        self._worker = worker
        self._device = device
        self._fail = fail
        self._steps_since_shortage = 0
        self._too_many = math.inf  # tokens of a job that did not fit into one forward: so large a one goes row by row

    def step(self, batch: list[Job]) -> list[Job]:
        """The jobs that were moved on; the others failed, or are left for the next step."""
        try:
            self._move(batch)
        except Exception as error:
            if is_device_error(error):
                raise
            if is_out_of_memory(error):
                again = self._with_more_room
            else:
                log.exception("a step of %d edits failed; each is tried alone", len(batch))
                again = self._alone
        else:
            self._regain()
            return batch
        return again(batch)  # not before: the error's traceback keeps all that the failed forward has allocated

    def _with_more_room(self, batch: list[Job]) -> list[Job]:
        """Alone, where something else took memory at the same time; else with fewer tokens."""
        with self._device.alone() as had_company:
            if not had_company:
                return self._with_less(batch)
            log.warning("out of memory with %d edits in a step beside other work: once more without it", len(batch))
            self._worker.free_memory(encodings=False)
            return self.step(batch)

    def _with_less(self, batch: list[Job]) -> list[Job]:
        self.budget = max(1, min(self.budget, batch_tokens(batch) // 2))
        self._steps_since_shortage = 0
        log.warning("out of memory with %d edits in a step: at most %d tokens from here", len(batch), self.budget)
        self._worker.free_memory(encodings=False)
        if len(batch) == 1:
            self._too_many = min(self._too_many, batch_tokens(batch))
            return self._alone(batch)
        return self.step(next_batch(batch, self.budget, in_order))

    def _alone(self, batch: list[Job]) -> list[Job]:
        return [job for job in batch if self._moves_alone(job)]

    def _moves_alone(self, job: Job) -> bool:
        try:
            self._move([job])
            return True
        except Exception as error:
            short = is_out_of_memory(error)
            self._fail(job, error)
        if short:
            self._worker.free_memory(encodings=False)
        return False

    def _move(self, batch: list[Job]) -> None:
        row_by_row = len(batch) == 1 and batch_tokens(batch) >= self._too_many
        with self._device.shared():
            self._worker.step(batch, rows_per_forward=1 if row_by_row else None)

    def _regain(self) -> None:
        self._steps_since_shortage += 1
        if self._steps_since_shortage >= RECOVERY_STEPS:
            self._steps_since_shortage = 0
            self.budget = min(self._max_batch_tokens, self.budget * 2)
            self._too_many = math.inf
