"""The scheduler alone: who takes part in the next step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from qwen_edit.scheduling.schedule import batch_tokens, next_batch


@dataclass(frozen=True)
class Waiting:
    order: tuple[float, int]
    row_tokens: tuple[int, ...] = (120,)
    alone: bool = False
    steps_left: int = 1


def by_order(job: Waiting) -> tuple[float, int]:
    return job.order


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    count = draw(st.integers(1, 25))
    arrivals = draw(st.lists(st.floats(0, 10), min_size=count, max_size=count))
    return [
        Waiting(
            order=(arrival, number),
            row_tokens=tuple(draw(st.lists(st.integers(41, 310), min_size=1, max_size=2))),
            steps_left=draw(st.integers(1, 12)),
            alone=draw(st.booleans()),
        )
        for number, arrival in enumerate(arrivals)
    ]


@given(queues(), st.integers(1, 3000))
def test_the_oldest_job_is_in_every_step(jobs: list[Waiting], budget: int) -> None:
    assert next_batch(jobs, budget, by_order)[0] == min(jobs, key=by_order)


@given(queues(), st.integers(1, 3000))
def test_the_budget_holds_unless_one_job_exceeds_it_alone(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget, by_order)
    assert len(batch) == 1 or batch_tokens(batch) <= budget


@given(queues(), st.integers(1, 3000))
def test_no_job_is_in_a_step_twice(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget, by_order)
    assert len(set(batch)) == len(batch)


@given(queues(), st.integers(1, 3000))
def test_who_is_left_out_would_not_have_fitted(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget, by_order)
    for job in jobs:
        if job not in batch and not (job.alone or batch[0].alone):
            assert batch_tokens([*[b for b in batch if b.order < job.order], job]) > budget


@given(queues(), st.integers(1, 3000))
def test_who_shares_no_forward_has_one_of_its_own(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget, by_order)
    assert len(batch) == 1 or not any(job.alone for job in batch)


@given(queues(), st.integers(1, 3000))
def test_nobody_starves(jobs: list[Waiting], budget: int) -> None:
    """Every job ends within as many steps as all jobs older than it, and itself, have left together."""
    allowed = {job.order: sum(other.steps_left for other in jobs if other.order <= job.order) for job in jobs}
    step = 0
    while jobs:
        step += 1
        moved = {job.order for job in next_batch(jobs, budget, by_order)}
        jobs = [replace(job, steps_left=job.steps_left - (job.order in moved)) for job in jobs]
        for job in jobs:
            if job.steps_left == 0:
                assert step <= allowed[job.order]
        jobs = [job for job in jobs if job.steps_left]


def test_the_tokens_of_rows_add_up() -> None:
    short, long = Waiting((0, 0), (110,)), Waiting((1, 1), (200, 205))
    assert batch_tokens([short, long]) == 515
    assert next_batch([short, long], 514, by_order) == [short]
    assert next_batch([short, long], 515, by_order) == [short, long]


def test_a_job_that_does_not_fit_lets_a_later_one_in_that_does() -> None:
    first, guided, plain = Waiting((0, 0)), Waiting((1, 1), (120, 120)), Waiting((2, 2))
    assert next_batch([first, guided, plain], 240, by_order) == [first, plain]


def test_the_order_is_the_callers() -> None:
    first, second = Waiting((0, 0)), Waiting((1, 1))
    assert next_batch([first, second], 1, lambda job: -job.order[1]) == [second]


def test_nothing_waiting_means_no_step() -> None:
    assert next_batch([], 1000, by_order) == []
    assert batch_tokens([]) == 0
