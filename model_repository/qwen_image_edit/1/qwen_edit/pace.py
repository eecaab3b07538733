"""How fast the engine gets on, so that whoever is refused learns when to come again."""

from __future__ import annotations

import math
from collections.abc import Iterable

from qwen_edit.job import Job

MEMORY = 0.9  # weight of what was seen before against the newest step
RETRY_SECONDS = (1, 60)  # within these, every SDK obeys


class Pace:
    def __init__(self) -> None:
        self._seconds_per_step = 0.0  # of one job: steps that were shared count less

    def stepped(self, jobs: int, seconds: float) -> None:
        """One forward moved `jobs` jobs one step on."""
        now = seconds / jobs
        self._seconds_per_step = MEMORY * self._seconds_per_step + (1 - MEMORY) * now if self._seconds_per_step else now

    def retry_seconds(self, jobs: Iterable[Job]) -> int:
        """When half of what is left of these jobs will be done: enough places are free then, and there is work left."""
        left = sum(job.steps_left for job in jobs)
        low, high = RETRY_SECONDS
        return min(max(math.ceil(left * self._seconds_per_step / 2), low), high)
