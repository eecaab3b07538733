"""How many bytes are with Triton at a time: it keeps the whole body of a call until it has answered it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Order = tuple[bool, float]


class ByteGate:
    """Those with the lowest order go first, and one always goes, however large it is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._numbers = itertools.count()
        self._waiting: list[tuple[Order, int, int, asyncio.Future[None]]] = []  # a heap

    @asynccontextmanager
    async def passing(self, size: int, order: Order) -> AsyncIterator[None]:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._numbers), size, place))
        self._admit()
        try:
            await place
            yield
        finally:
            if not place.cancelled():
                self._held -= size
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            _, _, size, place = self._waiting[0]
            if not place.cancelled():
                if self._held and self._held + size > self._limit:
                    return
                self._held += size
                place.set_result(None)
            heapq.heappop(self._waiting)
