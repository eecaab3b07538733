from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwen_edit.scheduling.pace import RETRY_SECONDS, Pace


@dataclass
class Left:
    """A job as the pace sees it."""

    steps_left: int
    row_tokens: tuple[int, ...] = (100,)


def jobs(count: int, steps: int, *row_tokens: int) -> Any:
    return [Left(steps, row_tokens or (100,)) for _ in range(count)]


def test_who_is_refused_comes_back_when_half_of_what_is_left_is_done() -> None:
    pace = Pace()
    pace.stepped(jobs(1, 1), seconds=0.5)
    assert pace.retry_seconds(jobs(8, steps=10)) == 20
    assert pace.retry_seconds(jobs(4, steps=10)) == 10


def test_steps_that_are_shared_count_for_all_that_share_them() -> None:
    alone, together = Pace(), Pace()
    alone.stepped(jobs(1, 1), seconds=0.5)
    together.stepped(jobs(4, 1), seconds=1.0)
    assert together.retry_seconds(jobs(8, steps=10)) < alone.retry_seconds(jobs(8, steps=10))


def test_a_long_row_costs_more_than_a_short_one_that_shares_its_steps() -> None:
    pace = Pace()
    for _ in range(3):
        pace.stepped([*jobs(1, 1, 100), *jobs(1, 1, 900)], seconds=1.0)
    assert pace.retry_seconds(jobs(1, 20, 100)) == 1
    assert pace.retry_seconds(jobs(1, 20, 900)) == 9
    assert pace.retry_seconds(jobs(1, 20, 900, 900)) == 18


def test_a_job_that_is_not_prepared_counts_as_one_of_the_others() -> None:
    pace = Pace()
    pace.stepped(jobs(1, 1), seconds=0.5)
    unknown: Any = [Left(10, ()) for _ in range(4)]
    assert pace.retry_seconds([*jobs(4, steps=10), *unknown]) == 20
    assert pace.retry_seconds(unknown) == RETRY_SECONDS[0]


def test_the_newest_steps_move_the_pace_slowly() -> None:
    pace = Pace()
    for _ in range(100):
        pace.stepped(jobs(1, 1), seconds=1.0)
    pace.stepped(jobs(1, 1), seconds=10.0)
    assert 10 <= pace.retry_seconds(jobs(1, steps=20)) <= 20


def test_the_wait_stays_where_every_sdk_obeys_it() -> None:
    pace = Pace()
    assert pace.retry_seconds(jobs(64, steps=50)) == RETRY_SECONDS[0]
    pace.stepped(jobs(1, 1), seconds=30.0)
    assert pace.retry_seconds(jobs(64, steps=50)) == RETRY_SECONDS[1]
    assert pace.retry_seconds([]) == RETRY_SECONDS[0]
