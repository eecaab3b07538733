"""The scheduler alone: who takes part in the next step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st
from qwen_edit.schedule import batch_tokens, next_batch


@dataclass(frozen=True)
class Waiting:
    order: tuple[float, int]
    geometry: str = "a"
    alone: bool = False
    rows: int = 1
    image_tokens: int = 100
    text_tokens: int = 20
    steps_left: int = 1


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    tokens = {"a": 100, "b": 250, "c": 40}
    count = draw(st.integers(1, 25))
    arrivals = draw(st.lists(st.floats(0, 10), min_size=count, max_size=count))
    return [
        Waiting(
            order=(arrival, number),
            geometry=(geometry := draw(st.sampled_from("abc"))),
            rows=draw(st.integers(1, 2)),
            image_tokens=tokens[geometry],
            text_tokens=draw(st.integers(1, 60)),
            steps_left=draw(st.integers(1, 12)),
            alone=draw(st.booleans()),
        )
        for number, arrival in enumerate(arrivals)
    ]


@given(queues(), st.integers(1, 3000))
def test_the_oldest_job_is_in_every_step(jobs: list[Waiting], budget: int) -> None:
    assert next_batch(jobs, budget)[0] == min(jobs, key=lambda job: job.order)


@given(queues(), st.integers(1, 3000))
def test_the_budget_holds_unless_one_job_exceeds_it_alone(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget)
    assert len(batch) == 1 or batch_tokens(batch) <= budget


@given(queues(), st.integers(1, 3000))
def test_all_jobs_of_a_step_share_one_geometry_and_none_is_in_it_twice(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget)
    assert len({job.geometry for job in batch}) == 1
    assert len(set(batch)) == len(batch)


@given(queues(), st.integers(1, 3000))
def test_who_is_left_out_would_not_have_fitted(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget)
    for job in jobs:
        alone = job.alone or batch[0].alone
        if job not in batch and job.geometry == batch[0].geometry and not alone:
            assert batch_tokens([*[b for b in batch if b.order < job.order], job]) > budget


@given(queues(), st.integers(1, 3000))
def test_who_shares_no_forward_has_one_of_its_own(jobs: list[Waiting], budget: int) -> None:
    batch = next_batch(jobs, budget)
    assert len(batch) == 1 or not any(job.alone for job in batch)


@given(queues(), st.integers(1, 3000))
def test_nobody_starves(jobs: list[Waiting], budget: int) -> None:
    """Every job ends within as many steps as all jobs older than it, and itself, have left together."""
    allowed = {job.order: sum(other.steps_left for other in jobs if other.order <= job.order) for job in jobs}
    step = 0
    while jobs:
        step += 1
        moved = {job.order for job in next_batch(jobs, budget)}
        jobs = [replace(job, steps_left=job.steps_left - (job.order in moved)) for job in jobs]
        for job in jobs:
            if job.steps_left == 0:
                assert step <= allowed[job.order]
        jobs = [job for job in jobs if job.steps_left]


def test_padding_counts_against_the_budget() -> None:
    short, long = Waiting((0, 0), text_tokens=10), Waiting((1, 1), text_tokens=100)
    assert batch_tokens([short, long]) == 2 * (100 + 100)
    assert next_batch([short, long], 399) == [short]
    assert next_batch([short, long], 400) == [short, long]


def test_a_job_that_does_not_fit_lets_a_later_one_in_that_does() -> None:
    first, guided, plain = Waiting((0, 0)), Waiting((1, 1), rows=2), Waiting((2, 2))
    assert next_batch([first, guided, plain], 240) == [first, plain]


def test_nothing_waiting_means_no_step() -> None:
    assert next_batch([], 1000) == []
    assert batch_tokens([]) == 0
