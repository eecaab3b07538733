"""Time in which this process ran, to judge others by: whoever was paused together with it saw no silence of theirs.

`docker pause`, a snapshot of the virtual machine and SIGSTOP stop all of us, and the monotonic clock goes on.
"""

from __future__ import annotations

import threading
import time

GAP_SECONDS = 1.0  # the most that counts between two looks, of which there are five a second


class Clock:
    """To be looked at all the time, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_at = time.monotonic()
        self._ran = 0.0

    def now(self) -> float:
        """Seconds since the start; of a longer gap, GAP_SECONDS."""
        with self._lock:
            now = time.monotonic()
            self._ran += min(now - self._looked_at, GAP_SECONDS)
            self._looked_at = now
            return self._ran
