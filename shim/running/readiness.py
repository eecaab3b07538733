"""How many Tritons serve the model, asked at most once a second however many ask us."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

CACHE_SECONDS = 1.0


class Readiness:
    def __init__(self, ask: Callable[[], Awaitable[int]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self.servers = 0  # as far as the last answer told
        self._asked = float("-inf")

    async def is_ready(self) -> bool:
        async with self._lock:
            if time.monotonic() - self._asked >= CACHE_SECONDS:
                self.servers = await self._ask()
                self._asked = time.monotonic()
            return self.servers > 0
