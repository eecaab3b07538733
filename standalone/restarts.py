"""When a server that failed is started again, and when no more. Pure: the caller has the clock."""

from __future__ import annotations

STABLE_SECONDS = 1.0  # a server that served so long can load, and is started again at once
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0


class Restarts:
    """Gives up at the `max_failures`-th failure within `window_seconds`."""

    def __init__(self, max_failures: int, window_seconds: float) -> None:
        self._max_failures = max_failures
        self._window_seconds = window_seconds
        self._failures: list[float] = []
        self._in_a_row = 0  # failures without stable service between them

    def failed(self, now: float, served_seconds: float) -> float | None:
        """Seconds until the next start: none after stable service, else doubling; None: give up."""
        self._failures = [at for at in self._failures if now - at < self._window_seconds] + [now]
        if len(self._failures) >= self._max_failures:
            return None
        self._in_a_row = 0 if served_seconds >= STABLE_SECONDS else self._in_a_row + 1
        if not self._in_a_row:
            return 0.0
        return float(min(FIRST_WAIT_SECONDS * 2 ** (self._in_a_row - 1), LONGEST_WAIT_SECONDS))
