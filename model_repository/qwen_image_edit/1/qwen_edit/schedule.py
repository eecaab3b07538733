"""Which jobs take part in the next denoising step. Pure: no torch, no clock, no state."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar


class Schedulable(Protocol):
    """A job as the scheduler sees it."""

    @property
    def order(self) -> tuple[float, int]:
        """First come, first served: arrival in Unix seconds, then the order of admission."""

    @property
    def alone(self) -> bool:
        """Whether it shares no forward."""

    @property
    def geometry(self) -> Hashable:
        """Jobs share a forward only where this is equal."""

    @property
    def rows(self) -> int:
        """Transformer inputs of the job: 1, or 2 with guidance."""

    @property
    def image_tokens(self) -> int:
        """Output and reference tokens of one row."""

    @property
    def text_tokens(self) -> int:
        """Text tokens of the job's longest row; shorter ones in the batch are padded to the longest."""


Job = TypeVar("Job", bound=Schedulable)


def batch_tokens(jobs: Sequence[Schedulable]) -> int:
    """Tokens that one forward of these jobs works on, padding counted."""
    rows = sum(job.rows for job in jobs)
    return rows * (jobs[0].image_tokens + max(job.text_tokens for job in jobs)) if jobs else 0


def next_batch(jobs: Sequence[Job], budget: int) -> list[Job]:
    """The oldest job, and after it, in order, every job of its geometry that keeps the forward within `budget` tokens.

    One that shares no forward has its own when it is the oldest.

    The oldest takes part even where it exceeds the budget alone. So every job's turn comes: it either joins an older
    one, or those before it finish and it is the oldest itself.
    """
    batch: list[Job] = []
    for job in sorted(jobs, key=lambda job: job.order):
        if not batch or _joins(job, batch, budget):
            batch.append(job)
    return batch


def _joins(job: Job, batch: list[Job], budget: int) -> bool:
    if job.alone or batch[0].alone or job.geometry != batch[0].geometry:
        return False
    return batch_tokens([*batch, job]) <= budget
