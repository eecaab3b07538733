"""Who has taken how much of something lately, so that others can go before it. The caller has the clock."""

from __future__ import annotations

import math

HALF_LIFE_SECONDS = 10.0  # after which half of it is forgotten
LIGHT_SECONDS = 2.0  # up to which all are alike
FORGOTTEN_SECONDS = 0.01


class Spent:
    def __init__(self) -> None:
        self._of: dict[str, tuple[float, float]] = {}  # seconds, and when they were counted

    def add(self, who: str, seconds: float, now: float) -> None:
        self._of = {each: kept for each, kept in self._of.items() if self._lately(each, now) > FORGOTTEN_SECONDS}
        self._of[who] = self._lately(who, now) + seconds, now

    def level(self, who: str, now: float) -> int:
        """0 for whoever has taken little; the lowest go first."""
        return int(self._lately(who, now) / LIGHT_SECONDS)

    def _lately(self, who: str, now: float) -> float:
        seconds, at = self._of.get(who, (0.0, now))
        return seconds * math.exp2((at - now) / HALF_LIFE_SECONDS)
