"""One thread at a time for all of Triton's objects."""

from __future__ import annotations

import threading
from typing import Any

# Calls of a Metric let go of Python's lock, and then write what the Metric has in shared memory. Where two threads use
# one Metric at once, Triton aborts (boost::interprocess::lock_exception), 24.10 as the newest, with all edits of all
# instances. One lock for all of Triton's objects rules that out.
ONE_AT_A_TIME = threading.RLock()


class Exclusive:
    """One of Triton's objects, called by one thread at a time."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._wrapped, name)

        def call(*args: Any, **options: Any) -> Any:
            with ONE_AT_A_TIME:
                return method(*args, **options)

        return call
