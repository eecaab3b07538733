"""What modulates tokens at each time of a schedule: made once, and kept for later steps and other jobs."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch

KEPT_TIMES = 128  # at the real size 4.4 MB each, in all blocks together


class Times(NamedTuple):
    """Of a forward: one for each row, and after them 0."""

    values: tuple[float, ...]
    embedded: torch.Tensor  # (times, width)


class Modulations:
    """By one layer, which is a third of its block's weights, and works only where a time is new."""

    def __init__(self, layer: torch.nn.Module, kept: int = KEPT_TIMES) -> None:
        self._layer = layer
        self._kept = kept
        self._by_time: OrderedDict[float, torch.Tensor] = OrderedDict()

    def of(self, times: Times) -> torch.Tensor:
        """(times, 6 width)"""
        embedded = zip(times.values, times.embedded, strict=True)
        new = {value: each for value, each in embedded if value not in self._by_time}
        # Time 0 is made apart: an edit alone then gets the same to the last bit, whichever of its steps is its first.
        for values in ([value for value in new if value], [value for value in new if not value]):
            if values:
                made = self._layer(torch.stack([new[value] for value in values]))
                self._by_time.update(zip(values, made, strict=True))
        for value in times.values:
            self._by_time.move_to_end(value)
        modulations = torch.stack([self._by_time[value] for value in times.values])
        while len(self._by_time) > self._kept:
            self._by_time.popitem(last=False)
        return modulations
