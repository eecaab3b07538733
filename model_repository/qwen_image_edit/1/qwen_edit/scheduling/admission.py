"""Whether an edit is taken: only what can be done in time, and does not make another one late. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from qwen_edit.scheduling.forecast import Costs, InLine, ends

HEADROOM = 0.5  # of the time that an edit could wait and still end: no more is spent when it is taken
RESERVE = 0.1  # of everybody's time, for steps that take longer than was foreseen
FIRST_COMERS = 8  # one place in as many is kept for callers who have none
ROUNDING = 1e-6  # seconds
WAITS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 27.0, 40.0, 60.0)  # seconds, after which to come again


def wait_for_time(
    newcomers: Sequence[InLine], line: Sequence[InLine], now: float, budget: int, costs: Costs
) -> float | None:
    """None: they can be taken. Else the seconds after which they could be, as things stand, or the most that is told.

    Whoever finds nobody is taken whatever is foreseen: that may be wrong, and only steps that are made can tell.
    """
    if not line:
        return None
    without = ends(line, now, budget, costs)
    waits = (wait for wait in (0.0, *WAITS) if _fits(_later(newcomers, wait), without, now + wait, now, budget, costs))
    first = next(waits, WAITS[-1])
    return first or None


def _fits(
    newcomers: Sequence[InLine],
    without: Mapping[InLine, float],
    then: float,
    now: float,
    budget: int,
    costs: Costs,
) -> bool:
    """Whether they could be taken `then`: the engine is never idle, so what it will have done by then makes no
    difference to when the others end."""
    found = ends([*without, *newcomers], now, budget, costs)
    by_themselves = max(ends(newcomers, 0.0, budget, costs).values())
    deadline = newcomers[0].deadline
    could_wait = deadline - then - by_themselves
    waits = max(found[newcomer] for newcomer in newcomers) - then - by_themselves
    if math.isfinite(deadline) and waits > (HEADROOM * could_wait if could_wait > 0 else 0.0):
        return False
    return not any(
        found[edit] > end + ROUNDING
        and end <= edit.deadline
        and found[edit] > edit.deadline - RESERVE * max(edit.deadline - then, 0.0)
        for edit, end in without.items()
    )


def _later(newcomers: Sequence[InLine], wait: float) -> list[InLine]:
    """The same edits, if they came so many seconds later."""
    return [
        replace(edit, place=(edit.place[0] + wait, *edit.place[1:]), deadline=edit.deadline + wait)
        for edit in newcomers
    ]


def has_place(caller: str, held: Counter[str], max_jobs: int) -> bool:
    """Whether one more edit of the caller may be held beside those that are, counted by caller.

    While others are there a caller has no more than his share, and never the last places, so that whoever comes finds
    one. Edits without a caller are nobody's.
    """
    total, his = held.total(), held[caller]
    if total >= max_jobs:
        return False
    if not caller or not his:
        return True
    callers = len({*held, caller} - {""})
    share = max_jobs // callers if callers > 1 else max_jobs
    return his < share and total < max_jobs - max_jobs // FIRST_COMERS
