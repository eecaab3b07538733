"""When a failed child is restarted, and when no more. The caller has the clock."""

from __future__ import annotations

import logging

from standalone.errors import LaunchError
from standalone.settings import Settings

STABLE_SECONDS = 1.0  # a child that served this long can start, and is restarted at once
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
REST_SECONDS = 300.0  # after too many failures, where nobody else would start it again

log = logging.getLogger("image_edit_server")


class Restarts:
    """Of one child. From the MAX_FAILURES-th failure within the window on, it gives up, or rests between the starts."""

    def __init__(self, name: str, settings: Settings, *, gives_up: bool) -> None:
        self._name = name
        self._max_failures = settings.max_failures
        self._window_minutes = settings.failure_window_minutes
        self._gives_up = gives_up
        self._failures: list[float] = []
        self._in_a_row = 0  # failures without stable service between them

    def failed(self, fault: str, now: float, served_seconds: float) -> float:
        """Seconds until the next start: none after stable service, else doubling; raises LaunchError to give up."""
        self._failures = [at for at in self._failures if now - at < 60.0 * self._window_minutes] + [now]
        self._in_a_row = 0 if served_seconds >= STABLE_SECONDS else self._in_a_row + 1
        if len(self._failures) >= self._max_failures:
            return self._too_many(fault)
        wait = FIRST_WAIT_SECONDS * 2 ** (self._in_a_row - 1) if self._in_a_row else 0.0
        wait = min(wait, LONGEST_WAIT_SECONDS)
        log.error("%s: %s; it is restarted in %.0f s", self._name, fault, wait)
        return wait

    def _too_many(self, fault: str) -> float:
        said = (
            f"{self._name}: {fault}; that was failure {len(self._failures)} within {self._window_minutes} minutes, "
            "as many as MAX_FAILURES allows"
        )
        if self._gives_up:
            raise LaunchError(said)
        log.critical("%s: it serves nothing until the next try, in %.0f s", said, REST_SECONDS)
        return REST_SECONDS
