"""Where prefixes are kept: bounded in bytes, the least recently used dropped first.

One that is gone is made again, for about the price of a step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import torch

from qwen_edit.metrics.protocol import PrefixUsage

REMEMBERED = 4096  # prefixes of which is known that they were made before
RECOVERY_STEPS = 500  # without a shortage of memory, after which a tenth more is held again


@dataclass(frozen=True, eq=False)
class Prefix:
    """What an edit holds of a prefix: how it is made, not its keys and values, which are the store's alone."""

    key: Hashable
    bytes: int  # of its keys and values
    make: Callable[[], torch.Tensor]
    made_of: tuple[torch.Tensor, ...] = ()


class PrefixStore:
    """Not for several threads. Holds more than `max_bytes` only where one step alone needs more."""

    def __init__(self, max_bytes: int, *, keeps: bool = True) -> None:
        """`keeps`: also what the next step does not need."""
        self.room = self.max_bytes = max_bytes
        self._keeps = keeps
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._made_before: OrderedDict[int, None] = OrderedDict()
        self._bytes = self._hits = self._encodes = self._recomputations = 0
        self._steps_since_shortage = 0

    @property
    def usage(self) -> PrefixUsage:
        return PrefixUsage(self._hits, self._encodes, self._recomputations, self._bytes)

    def begin(self, prefix: Prefix) -> None:
        """An edit is about to use it."""
        self._hits += prefix.key in self._kept
        self.tensors([prefix])

    def tensors(self, prefixes: Sequence[Prefix]) -> list[torch.Tensor]:
        """Of one forward, none of which is dropped for another of them. Let go of them when it is made."""
        keys = {prefix.key for prefix in prefixes}
        return [self._tensor(prefix, keys) for prefix in prefixes]

    def next_step(self, keys: Collection[Hashable]) -> None:
        """These are about to be used: others are dropped before them."""
        if keys:
            self._regain_room()
        for key in list(self._kept):
            if key in keys:
                self._kept.move_to_end(key)
            elif not self._keeps:
                self._drop(key)

    def give_back(self) -> None:
        """Drops all, and holds a tenth less for a while: it was too much beside the rest.

        Half of its room is its own.
        """
        if self._bytes:
            self.max_bytes = max(self.room // 2, min(self.max_bytes, self._bytes * 9 // 10))
        self._kept.clear()
        self._bytes = self._steps_since_shortage = 0

    def _regain_room(self) -> None:
        self._steps_since_shortage += 1
        if self._steps_since_shortage >= RECOVERY_STEPS:
            self._steps_since_shortage = 0
            self.max_bytes = min(self.room, self.max_bytes + self.room // 10)

    def _tensor(self, prefix: Prefix, needed: Collection[Hashable]) -> torch.Tensor:
        found = self._kept.get(prefix.key)
        if found is None:
            self._make_room(prefix.bytes, needed)
            found = self._kept[prefix.key] = prefix.make()
            self._bytes += found.nbytes
            self._count(prefix)
        self._kept.move_to_end(prefix.key)
        return found

    def _make_room(self, more: int, needed: Collection[Hashable]) -> None:
        """Before it is taken: at no time is there more than is allowed."""
        for key in [key for key in self._kept if key not in needed]:
            if self._bytes + more <= self.max_bytes:
                return
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        self._bytes -= self._kept.pop(key).nbytes

    def _count(self, prefix: Prefix) -> None:
        name = hash(prefix.key)
        self._encodes += 1
        self._recomputations += name in self._made_before
        self._made_before[name] = None
        self._made_before.move_to_end(name)
        if len(self._made_before) > REMEMBERED:
            self._made_before.popitem(last=False)
