from __future__ import annotations

import time

import pytest

from standalone.clock import GAP_SECONDS, Clock


def test_looks_that_lie_close_together_count_all_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: passed)
    clock = Clock()
    for _ in range(8):
        passed += 0.25
        clock.now()
    assert clock.now() == 2.0


def test_a_pause_counts_as_one_gap_so_that_who_is_looked_at_rarely_still_grows_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: passed)
    clock = Clock()
    looks = []
    for _ in range(3):
        passed += 3600.0
        looks.append(clock.now())
    assert looks == [GAP_SECONDS, 2 * GAP_SECONDS, 3 * GAP_SECONDS]
