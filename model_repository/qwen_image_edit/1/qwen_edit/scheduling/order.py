"""An edit's place: one number that puts short edits before long ones, and callers in turns. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# Of the same caller, an edit follows those that are at most this many times as long; it need not wait for longer ones.
ALIKE = 2.0


def place_of(arrival: float, work: float, of_the_caller: Iterable[tuple[float, float]], stretch: float) -> float:
    """The lowest is the first. Seconds of the clock that `arrival` is of.

    `work` is in seconds; `of_the_caller` has (place, work) of the caller's other edits that are not done. An edit is
    fixed where it is: whoever comes later than its place goes behind it, so everybody's turn comes. A caller's further
    edits are placed one behind the other, as if each had arrived when the one before it had been served in turn.
    """
    before = (place for place, its in of_the_caller if its <= ALIKE * work)
    return max(arrival, *before, arrival) + stretch * work
