"""What a shutdown waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

NOTICE_SECONDS = 2.0  # long enough for a balancer to see /ready turn 503


class Drain:
    def __init__(self, limit_seconds: float) -> None:
        self.edits = 0
        self._limit = limit_seconds
        self._started: float | None = None

    @property
    def started(self) -> bool:
        return self._started is not None

    def start(self) -> None:
        self._started = time.monotonic()

    @contextmanager
    def edit(self) -> Iterator[None]:
        self.edits += 1
        try:
            yield
        finally:
            self.edits -= 1

    def finished(self) -> bool:
        """Edits that arrive meanwhile are served too; the limit ends even these."""
        if self._started is None:
            return False
        elapsed = time.monotonic() - self._started
        return elapsed >= self._limit or (elapsed >= NOTICE_SECONDS and not self.edits)


class WaitedFor:
    """Each of these requests is an edit in flight, from before its body is read until its answer has been sent."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.drain.edit():
            await self.app(scope, receive, send)
