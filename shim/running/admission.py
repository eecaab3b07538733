"""When a refusal of the engine is the request's: only while no job of the request has reached the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shim.errors import QueueFull
from shim.running.faults import Unreached


class Admission:
    def __init__(self) -> None:
        self._in_flight = 0
        self._taken = False

    @property
    def granted(self) -> bool:
        return self._taken or self._in_flight > 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One call to Triton. Whatever else breaks it off, the engine may have taken the job before."""
        self._in_flight += 1
        try:
            yield
            self._taken = True
        except (QueueFull, Unreached):
            raise
        except BaseException:
            self._taken = True
            raise
        finally:
            self._in_flight -= 1
