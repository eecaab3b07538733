from __future__ import annotations

from types import SimpleNamespace

import pytest

from shim.running import drain
from shim.running.drain import Drain


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the time."""
    now = [100.0]
    monkeypatch.setattr(drain, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_it_does_not_end_before_it_starts(clock: list[float]) -> None:
    drain = Drain(60)
    assert not drain.started
    assert not drain.finished()


def test_an_idle_server_stays_until_a_balancer_has_noticed(clock: list[float]) -> None:
    drain = Drain(60)
    drain.start()
    assert drain.started
    assert not drain.finished()
    clock[0] += 2
    assert drain.finished()


def test_edits_in_flight_are_waited_for(clock: list[float]) -> None:
    drain = Drain(60)
    with drain.edit():
        drain.start()
        clock[0] += 59
        assert not drain.finished()
    assert drain.finished()


def test_the_limit_ends_even_the_edits(clock: list[float]) -> None:
    drain = Drain(60)
    with drain.edit():
        drain.start()
        clock[0] += 60
        assert drain.finished()


def test_an_edit_that_fails_is_over(clock: list[float]) -> None:
    drain = Drain(60)
    with pytest.raises(ZeroDivisionError), drain.edit():
        raise ZeroDivisionError
    assert drain.edits == 0
