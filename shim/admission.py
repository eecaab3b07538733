"""When a refusal of the engine is the request's: only while the engine has taken none of the request's jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from shim.errors import QueueFull

TAKEN_SECONDS = 1.0  # a refusal takes milliseconds: a call that lasted longer was taken, whatever became of it


class Admission:
    def __init__(self) -> None:
        self._in_flight = 0
        self._taken = False

    @property
    def granted(self) -> bool:
        return self._taken or self._in_flight > 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        started = time.monotonic()
        self._in_flight += 1
        try:
            yield
            self._taken = True
        except QueueFull:
            raise
        except BaseException:
            self._taken |= time.monotonic() - started >= TAKEN_SECONDS
            raise
        finally:
            self._in_flight -= 1
