from __future__ import annotations

from standalone.restarts import LONGEST_WAIT_SECONDS, STABLE_SECONDS, Restarts


def test_a_server_that_served_for_a_while_is_started_again_at_once() -> None:
    restarts = Restarts(max_failures=10, window_seconds=1000)
    assert [restarts.failed(100.0 * number, STABLE_SECONDS) for number in range(5)] == [0.0] * 5


def test_the_waits_of_one_that_never_serves_double_up_to_a_limit() -> None:
    restarts = Restarts(max_failures=100, window_seconds=1e9)
    waits = [restarts.failed(float(number), 0.0) for number in range(8)]
    assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS]


def test_service_makes_the_waits_short_again() -> None:
    restarts = Restarts(max_failures=100, window_seconds=1e9)
    assert [restarts.failed(0.0, served) for served in (0, 0, STABLE_SECONDS, 0)] == [1, 2, 0, 1]


def test_it_gives_up_at_the_last_failure_that_is_allowed_within_the_window() -> None:
    restarts = Restarts(max_failures=3, window_seconds=60)
    assert restarts.failed(0, 10) is not None
    assert restarts.failed(30, 10) is not None
    assert restarts.failed(59, 10) is None


def test_failures_that_lie_outside_of_the_window_are_forgotten() -> None:
    restarts = Restarts(max_failures=3, window_seconds=60)
    assert all(restarts.failed(31.0 * number, 10) is not None for number in range(20))


def test_one_failure_may_be_too_many() -> None:
    assert Restarts(max_failures=1, window_seconds=60).failed(0, 1000) is None
