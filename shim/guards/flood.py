"""A flood is refused at the door: after several refusals in a second the next come without reading the body."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from shim.errors import QueueFull

MEMORY_SECONDS = 1.0  # a place that became free is found this much later at most
MANY = 8  # refusals of one caller within that time; as many requests a second still ask the engine
MANY_TOGETHER = 64  # of all callers
CALLERS = 1024  # that are remembered


class Refusals:
    """The engine's last ones, of one caller or of all."""

    def __init__(self, many: int) -> None:
        self._times: deque[float] = deque(maxlen=many)  # the oldest first
        self._last: QueueFull | None = None

    def note(self, refusal: QueueFull) -> None:
        self._times.append(time.monotonic())
        self._last = refusal

    def check(self) -> None:
        full = len(self._times) == self._times.maxlen and time.monotonic() - self._times[0] < MEMORY_SECONDS
        if full and self._last:
            raise QueueFull(self._last.message, headers=self._last.headers)


class Flood:
    def __init__(self) -> None:
        self._of: OrderedDict[str, Refusals] = OrderedDict()  # by caller, who was refused last the last
        self._together = Refusals(MANY_TOGETHER)

    def check(self, caller: str) -> None:
        """Raises the last QueueFull again while the caller's flood is on, or everybody's."""
        if caller in self._of:
            self._of[caller].check()
        self._together.check()

    @contextmanager
    def noted(self, caller: str) -> Iterator[None]:
        try:
            yield
        except QueueFull as refusal:
            self._of.setdefault(caller, Refusals(MANY)).note(refusal)
            self._of.move_to_end(caller)
            if len(self._of) > CALLERS:
                self._of.popitem(last=False)
            self._together.note(refusal)
            raise
