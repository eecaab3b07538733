from __future__ import annotations

from types import SimpleNamespace

import pytest

from shim.errors import QueueFull
from shim.guards import flood
from shim.guards.flood import MANY, MANY_TOGETHER, Flood


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the time."""
    now = [100.0]
    monkeypatch.setattr(flood, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def refuse(noted: Flood, times: int = 1, caller: str = "a") -> None:
    for _ in range(times):
        with pytest.raises(QueueFull), noted.noted(caller):
            raise QueueFull("full", headers={"retry-after": "7"})


def test_a_few_refusals_are_not_remembered(clock: list[float]) -> None:
    noted = Flood()
    refuse(noted, MANY - 1)
    noted.check("a")


def test_a_flood_is_refused_with_the_engines_words(clock: list[float]) -> None:
    noted = Flood()
    refuse(noted, MANY)
    with pytest.raises(QueueFull, match="full") as refused:
        noted.check("a")
    assert refused.value.headers == {"retry-after": "7"}


def test_a_flood_is_forgotten_after_a_second_however_many_knocked_meanwhile(clock: list[float]) -> None:
    noted = Flood()
    refuse(noted, MANY)
    for _ in range(7):
        clock[0] += 0.125
        with pytest.raises(QueueFull):
            noted.check("a")
    clock[0] += 0.125
    noted.check("a")


def test_refusals_that_lie_apart_are_no_flood(clock: list[float]) -> None:
    noted = Flood()
    for _ in range(3 * MANY):
        noted.check("a")
        refuse(noted)
        clock[0] += 0.25


def test_one_callers_flood_closes_no_door_to_another(clock: list[float]) -> None:
    noted = Flood()
    refuse(noted, MANY)
    noted.check("b")


def test_a_flood_of_many_callers_is_refused_too(clock: list[float]) -> None:
    noted = Flood()
    for number in range(MANY_TOGETHER):
        refuse(noted, caller=f"caller {number}")
    with pytest.raises(QueueFull):
        noted.check("b")
    clock[0] += 1.0
    noted.check("b")
