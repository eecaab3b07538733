"""Which steps of an edit no forward is made for: they go on with the velocity of the last one that was.

Pure: what is skipped depends on the number of steps and on the preset alone, never on company, rounding or segments, so
that an edit's picture is the same however it is made.
"""

from __future__ import annotations

from functools import lru_cache

from qwen_edit.settings import OFF

MOST_WITHOUT = 8  # steps of an edit of which none can be spared


@lru_cache(maxsize=256)
def skipped(steps: int, preset: str) -> frozenset[int]:
    """`mild`: every second step from the third on, but for the last quarter; never two in a row."""
    if preset == OFF or steps <= MOST_WITHOUT:
        return frozenset()
    return frozenset(range(2, steps - steps // 4, 2))


def computed(start: int, stop: int, steps: int, preset: str) -> int:
    """How many of the steps start <= i < stop of an edit of `steps` steps need a forward."""
    return stop - start - sum(start <= step < stop for step in skipped(steps, preset))


def plan_at(step: int, steps: int, preset: str) -> str:
    """Names the velocity that step `step` goes on with; empty: it has its own."""
    return f"{preset} {steps} {step}" if step in skipped(steps, preset) else ""
