"""The order run forward: when each edit will end if nobody else comes. Pure: no torch, no clock of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qwen_edit.scheduling.schedule import company


class Costs(Protocol):
    """Seconds, by the image and text tokens of a forward's rows, or of an edit's."""

    def step(self, row_tokens: Sequence[int]) -> float: ...

    def encode(self, row_tokens: Sequence[int]) -> float: ...

    def decode(self, row_tokens: Sequence[int]) -> float: ...

    def away(self) -> float:
        """Between two segments."""


@dataclass(frozen=True, eq=False)
class InLine:
    """An edit that waits or runs."""

    place: tuple[float, str, int]  # the lowest is the first
    row_tokens: tuple[int, ...]
    steps_left: int
    deadline: float = math.inf
    encoded: bool = False
    alone: bool = False  # shares no forward
    returns: int = 0  # how often it will leave and come back, between two of its segments


def ends(line: Sequence[InLine], now: float, budget: int, costs: Costs) -> dict[InLine, float]:
    """When each will have been decoded.

    An edit that comes back may find that a forward of others has just begun, whatever its place.
    """
    forwards = {edit: costs.step(edit.row_tokens) for edit in line}
    found = in_one_piece(line, now, budget, costs)
    if not any(edit.returns for edit in line):
        return found
    most = max(costs.step([budget]), *forwards.values())
    everything = sum(forwards.values())
    return {
        edit: end + edit.returns * (costs.away() + min(most, everything - forwards[edit]))
        for edit, end in found.items()
    }


def in_one_piece(line: Sequence[InLine], now: float, budget: int, costs: Costs) -> dict[InLine, float]:
    """When each would have been decoded if none left before."""
    waiting = sorted(line, key=lambda edit: edit.place)
    left = {edit: edit.steps_left for edit in waiting}
    begun = {edit for edit in waiting if edit.encoded}
    found = {}
    while waiting:
        batch = company(waiting, budget)
        now += sum(costs.encode(edit.row_tokens) for edit in batch if edit not in begun)
        begun.update(batch)
        # Between two ends the same edits share every forward.
        steps = min(left[edit] for edit in batch)
        now += steps * costs.step([tokens for edit in batch for tokens in edit.row_tokens])
        for edit in batch:
            left[edit] -= steps
            if left[edit] <= 0:
                now += costs.decode(edit.row_tokens)
                found[edit] = now
        waiting = [edit for edit in waiting if edit not in found]
    return found


def alone(edit: InLine, costs: Costs) -> float:
    """Seconds that it needs with the engine to itself."""
    before = 0.0 if edit.encoded else costs.encode(edit.row_tokens)
    return (
        before
        + edit.steps_left * costs.step(edit.row_tokens)
        + edit.returns * costs.away()
        + costs.decode(edit.row_tokens)
    )
