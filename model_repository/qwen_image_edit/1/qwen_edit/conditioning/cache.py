"""An LRU cache of tensors, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

import torch


class TensorCache:
    """Not for several threads. What a running job still holds is found again even after it left the cache."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._alive: WeakValueDictionary[Hashable, torch.Tensor] = WeakValueDictionary()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor of `key`, computed where it is not at hand."""
        found = self._alive.get(key)
        if found is not None:
            self.hits += 1
        else:
            self.misses += 1
            found = self._alive[key] = compute()
        self._keep(key, found)
        return found

    def __contains__(self, key: Hashable) -> bool:
        return key in self._alive

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _keep(self, key: Hashable, tensor: torch.Tensor) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = tensor
        self.bytes += tensor.nbytes
        while self.bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
