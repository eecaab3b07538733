"""The step clock on a GPU that is made up: the host waits for no step but the one before."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from qwen_edit.clock import StepClock


@pytest.fixture
def happenings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    happened: list[str] = []
    numbers = iter(range(100))

    class Event:
        def __init__(self, enable_timing: bool, blocking: bool) -> None:
            assert enable_timing
            assert blocking, "else a core spins while it waits"
            self.number = next(numbers)

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            happened.append(f"waited for event {self.number}")

        def elapsed_time(self, other: Event) -> float:
            return 1000.0 * (other.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return happened


def test_the_host_is_one_step_ahead_and_every_step_is_told_once(happenings: list[str]) -> None:
    clock = StepClock(torch.device("cuda"), lambda jobs, seconds: happenings.append(f"{jobs} took {seconds:g} s"))

    def step(name: Any) -> Any:
        happenings.append(f"{name} queued")
        return [name]

    for name in ("first", "second"):
        clock.run(partial(step, name))
    clock.settle()
    clock.settle()
    assert happenings == [
        "first queued", "second queued", "waited for event 1", "['first'] took 1 s",
        "waited for event 3", "['second'] took 1 s",
    ]  # fmt: skip


def test_on_the_cpu_a_step_is_told_at_once() -> None:
    told: list[Any] = []
    clock = StepClock(torch.device("cpu"), lambda jobs, seconds: told.append((jobs, seconds >= 0)))
    clock.run(lambda: [])
    assert told == [([], True)]
