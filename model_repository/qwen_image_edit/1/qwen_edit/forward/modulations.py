"""What modulates tokens at each time of a schedule: made once, and kept for later steps and other jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch

from qwen_edit.forward.adapting import Adapting, identity
from qwen_edit.pipeline import Loras

KEPT_TIMES = 128  # at the real size 4.4 MB each, in all blocks together


Key = tuple[float, Hashable]  # a time, and the adapters that change what is made of it


class Times(NamedTuple):
    """Of a forward: one for each row, and after them 0 for each combination of adapters that change times."""

    values: tuple[float, ...]
    loras: tuple[Loras, ...]
    embedded: torch.Tensor  # (times, width)


class Modulations:
    """By one layer, which is a third of its block's weights, and works only where a time is new."""

    def __init__(self, layer: torch.nn.Module, kept: int = KEPT_TIMES) -> None:
        self._layer = layer
        self._kept = kept
        self._by_time: OrderedDict[Key, torch.Tensor] = OrderedDict()

    def of(self, times: Times, adapting: Adapting) -> torch.Tensor:
        """(times, 6 width)"""
        keys = [(value, identity(loras)) for value, loras in zip(times.values, times.loras, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in self._by_time}
        for together in made_together(new):
            first, *_ = places = [new[key] for key in together]
            adapting.whole(times.loras[first])
            made = self._layer(torch.stack([times.embedded[place] for place in places]))
            self._by_time.update(zip(together, made, strict=True))
        for key in keys:
            self._by_time.move_to_end(key)
        modulations = torch.stack([self._by_time[key] for key in keys])
        while len(self._by_time) > self._kept:
            self._by_time.popitem(last=False)
        return modulations


def made_together(keys: Iterable[Key]) -> list[list[Key]]:
    """Those with the same adapters, and time 0 apart from others: an edit alone then gets the same to the last bit,
    whichever of its steps is its first."""
    together: dict[Hashable, list[Key]] = {}
    for value, adapters in keys:
        together.setdefault((adapters, value != 0.0), []).append((value, adapters))
    return list(together.values())
