"""Open files: as many as the system allows, at most half of them connections."""

from __future__ import annotations

import logging
import resource
import time

MOST_CONNECTIONS = 1024
ACCEPTED_AT_ONCE = 16  # before the first of them is counted, so that few are open beyond the limit
QUIET_SECONDS = 60.0


def raise_file_limit() -> None:
    """What a shell sets for its children, often 1024, is less than the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """The other half is for pictures on disk and calls to Triton."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_CONNECTIONS, files // 2)


class OnceAWhile(logging.Filter):
    """One record in QUIET_SECONDS of those that begin so; asyncio has thousands a second for a lack of descriptors."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(self._beginning):
            return True
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + QUIET_SECONDS
        return True
