"""How fast the engine gets on, so that whoever is refused learns when to come again."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from qwen_edit.forward.cost import ForwardCost
from qwen_edit.job import Job

RETRY_SECONDS = (1, 60)  # within these, every SDK obeys


class Pace:
    def __init__(self) -> None:
        self._cost = ForwardCost()

    def stepped(self, jobs: Iterable[Job], seconds: float) -> None:
        """One forward moved these jobs one step on."""
        self._cost.observe([tokens for job in jobs for tokens in job.row_tokens], seconds)

    def retry_seconds(self, jobs: Collection[Job]) -> int:
        """When half of what is left of these jobs will be done: enough places are free then, and there is work left."""
        low, high = RETRY_SECONDS
        return min(max(math.ceil(self._seconds_left(jobs) / 2), low), high)

    def _seconds_left(self, jobs: Collection[Job]) -> float:
        """A job whose pictures are still being decoded counts as one of the others does."""
        known = [self._cost.seconds(job.row_tokens) * job.steps_left for job in jobs if job.row_tokens]
        return sum(known) * len(jobs) / len(known) if known else 0.0
