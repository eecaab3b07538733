from __future__ import annotations

import logging

import pytest

from standalone.errors import LaunchError
from standalone.restarts import LONGEST_WAIT_SECONDS, REST_SECONDS, STABLE_SECONDS, Restarts
from standalone.settings import Settings

FAULT = "its worker 7 died"


def restarts(max_failures: int, window_minutes: int = 10_000, *, gives_up: bool = True) -> Restarts:
    settings = {"MAX_FAILURES": str(max_failures), "FAILURE_WINDOW_MINUTES": str(window_minutes)}
    return Restarts("tritonserver", Settings.from_environment(settings), gives_up=gives_up)


def test_a_server_that_served_for_a_while_is_started_again_at_once() -> None:
    child = restarts(max_failures=10)
    assert [child.failed(FAULT, 100.0 * number, STABLE_SECONDS) for number in range(5)] == [0.0] * 5


def test_the_waits_of_one_that_never_serves_double_up_to_a_limit() -> None:
    child = restarts(max_failures=100)
    waits = [child.failed(FAULT, float(number), 0.0) for number in range(8)]
    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS]


def test_service_makes_the_waits_short_again() -> None:
    child = restarts(max_failures=100)
    assert [child.failed(FAULT, 0.0, served) for served in (0, 0, STABLE_SECONDS, 0)] == [1, 2, 0, 1]


def test_it_gives_up_at_the_last_failure_that_is_allowed_within_the_window() -> None:
    child = restarts(max_failures=3, window_minutes=1)
    child.failed(FAULT, 0, 10)
    child.failed(FAULT, 30, 10)
    with pytest.raises(LaunchError) as error:
        child.failed(FAULT, 59, 10)
    assert str(error.value) == (
        "tritonserver: its worker 7 died; that was failure 3 within 1 minutes, as many as MAX_FAILURES allows"
    )


def test_where_nobody_else_would_start_it_it_rests_and_says_so_aloud(caplog: pytest.LogCaptureFixture) -> None:
    child = restarts(max_failures=3, window_minutes=60, gives_up=False)
    waits = [child.failed(FAULT, REST_SECONDS * number, 10) for number in range(5)]
    assert waits == [0, 0, REST_SECONDS, REST_SECONDS, REST_SECONDS]
    loud = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(loud) == 3
    assert loud[0].endswith("as many as MAX_FAILURES allows: it serves nothing until the next try, in 300 s")
    assert child.failed(FAULT, 10_000, 10) == 0, "an hour later it is as if nothing had been"


def test_failures_that_lie_outside_of_the_window_are_forgotten() -> None:
    child = restarts(max_failures=3, window_minutes=1)
    assert [child.failed(FAULT, 31.0 * number, 10) for number in range(20)] == [0.0] * 20


def test_one_failure_may_be_too_many() -> None:
    with pytest.raises(LaunchError):
        restarts(max_failures=1).failed(FAULT, 0, 1000)
