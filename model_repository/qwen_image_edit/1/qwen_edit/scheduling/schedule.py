"""Which jobs take part in the next denoising step. Pure: no torch, no clock, no state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar


class Schedulable(Protocol):
    """A job as the scheduler sees it."""

    @property
    def row_tokens(self) -> Sequence[int]:
        """Image and text tokens of each of the job's rows: of one, or of two with guidance."""

    @property
    def alone(self) -> bool:
        """Whether it shares no forward."""


Job = TypeVar("Job", bound=Schedulable)


def batch_tokens(jobs: Iterable[Schedulable]) -> int:
    """Tokens that one forward of these jobs works on."""
    return sum(sum(job.row_tokens) for job in jobs)


def next_batch(jobs: Iterable[Job], budget: int, order: Callable[[Job], Any]) -> list[Job]:
    """The job that is first by `order`, and after it every job that keeps the forward within `budget` tokens.

    One that shares no forward has its own when it is the first.

    The first takes part even where it exceeds the budget alone. So every job's turn comes: it either joins an earlier
    one, or those before it finish and it is the first itself.
    """
    return company(sorted(jobs, key=order), budget)


def company(ordered: Iterable[Job], budget: int) -> list[Job]:
    """`next_batch` of jobs that are in order already."""
    batch: list[Job] = []
    tokens = 0
    for job in ordered:
        its = sum(job.row_tokens)
        if not batch or (tokens + its <= budget and not (job.alone or batch[0].alone)):
            batch.append(job)
            tokens += its
    return batch
