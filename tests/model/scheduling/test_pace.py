from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
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


def test_before_the_first_step_the_pace_is_a_large_gpus() -> None:
    pace = Pace()
    assert not pace.known
    assert 0.1 < pace.step([9600, 9600]) < 1.0
    assert pace.retry_seconds(jobs(8, 50, 9600, 9600)) > 1


def test_one_forward_that_took_very_long_does_not_make_the_others_slow() -> None:
    pace = Pace()
    for seconds in [0.5] * 20 + [60.0]:
        pace.stepped(jobs(1, 1), seconds)
    assert pace.step([100]) < 0.6


def test_where_all_forwards_take_longer_the_pace_follows_within_as_many_as_are_remembered() -> None:
    pace = Pace()
    for seconds in [0.5] * 200 + [1.5] * 64:
        pace.stepped(jobs(1, 1), seconds)
    assert pace.step([100]) > 1.2


def test_the_first_encoding_tells_nothing_of_the_others() -> None:
    pace = Pace()
    for seconds in (20.0, 0.5, 0.7):
        pace.encoded([100], seconds)
        pace.decoded([100], seconds)
    assert pace.encode([200]) == pace.decode([200]) == pytest.approx(1.2)
    assert pace.work([100, 100], 0) == pytest.approx(2.4)


def test_the_newest_steps_move_the_pace_slowly() -> None:
    pace = Pace()
    for _ in range(100):
        pace.stepped(jobs(1, 1), seconds=1.0)
    pace.stepped(jobs(1, 1), seconds=10.0)
    assert 10 <= pace.retry_seconds(jobs(1, steps=20)) <= 20


def test_the_wait_stays_where_every_sdk_obeys_it() -> None:
    pace = Pace()
    pace.stepped(jobs(1, 1), seconds=30.0)
    assert pace.retry_seconds(jobs(64, steps=50)) == RETRY_SECONDS[1]
    assert pace.retry_seconds([]) == RETRY_SECONDS[0]
