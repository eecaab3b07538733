"""A flood is refused at the door: after several refusals in a second the next come without reading the body."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from shim.errors import QueueFull

MEMORY_SECONDS = 1.0  # a place that became free is found this much later at most
MANY = 8  # refusals within that time; as many requests a second still ask the engine


class Flood:
    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MANY)  # of the engine's refusals, the oldest first
        self._last: QueueFull | None = None

    def check(self) -> None:
        """Raises the last QueueFull again while the flood is on."""
        full = len(self._times) == MANY and time.monotonic() - self._times[0] < MEMORY_SECONDS
        if full and self._last:
            raise QueueFull(self._last.message, headers=self._last.headers)

    @contextmanager
    def noted(self) -> Iterator[None]:
        try:
            yield
        except QueueFull as refusal:
            self._times.append(time.monotonic())
            self._last = refusal
            raise
