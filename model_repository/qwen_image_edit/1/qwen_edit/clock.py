"""How long steps take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from qwen_edit.job import Job


@dataclass(frozen=True)
class Underway:
    """A step that the GPU may still be busy with, between two events of its stream."""

    jobs: list[Job]
    before: Any
    after: Any

    def seconds(self) -> float:
        """Waits for its end."""
        self.after.synchronize()
        return float(self.before.elapsed_time(self.after)) / 1000


class StepClock:
    """Calls `tell(jobs, seconds)` for every step, on a GPU only after the next one has been queued.

    So the host prepares a step while the GPU computes the one before, and is never more than one ahead.
    """

    def __init__(self, device: torch.device, tell: Callable[[list[Job], float], None]) -> None:
        self._device = device
        self._tell = tell
        self._underway: Underway | None = None

    def run(self, step: Callable[[], list[Job]]) -> list[Job]:
        """The jobs that `step` moved on."""
        if self._device.type != "cuda":
            started = time.monotonic()
            jobs = step()
            self._tell(jobs, time.monotonic() - started)
            return jobs
        before, after = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record()
        jobs = step()
        after.record()
        self.settle()
        self._underway = Underway(jobs, before, after)
        return jobs

    def settle(self) -> None:
        """Tells of the step that is under way, once it is done."""
        underway, self._underway = self._underway, None
        if underway is not None:
            self._tell(underway.jobs, underway.seconds())
