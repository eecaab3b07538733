"""An LRU cache of encodings and decoded masks, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class ConditioningCache:
    """For several threads. What a running job still holds is found again even after it left the cache.

    A key has values of one type.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._alive: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._lock = threading.Lock()  # guards all of these
        self.bytes = 0
        self.hits = 0  # of `get`, like the misses
        self.misses = 0

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of `key`, computed where it is not at hand."""
        found: Value | None = self.find(key)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        computed = compute()
        self.keep(key, computed)
        return computed

    def find(self, key: Hashable) -> Any:
        """The value of `key`, or None."""
        with self._lock:
            found = self._alive.get(key)
            if found is not None:
                self._keep(key, found)
            return found

    def keep(self, key: Hashable, value: Sized) -> None:
        with self._lock:
            self._alive[key] = value
            self._keep(key, value)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._alive

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def _keep(self, key: Hashable, value: Sized) -> None:
        before = self._kept.pop(key, None)
        self._kept[key] = value
        self.bytes += value.nbytes - (before.nbytes if before is not None else 0)
        while self.bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
