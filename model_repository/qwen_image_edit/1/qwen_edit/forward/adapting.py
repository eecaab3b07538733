"""LoRA adapters of single rows: each layer that an adapter is for adds, over its rows' tokens, what that makes of them.

Hooks do it, for as long as a forward runs. So a layer may be quantised, hooked or adapted at load as it likes, and a
forward of rows without adapters is what it would be if there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any, Self

import torch

from qwen_edit.pipeline import Loras, LowRank, Row

Velocities = list[torch.Tensor]
Spans = list[tuple[int, int | None, Loras]]  # tokens from here to there, and what is added to them


class Adapting:
    """Of one forward, for rows that have these. It has to be told what is called next."""

    def __init__(self, loras: Sequence[Loras]) -> None:
        self._loras = loras
        self._layers = {layer for row in loras for lora in row for layer in lora.layers}
        self._hooks: list[Any] = []
        self._spans: Spans = []
        self._spans_of_rows: dict[tuple[int, ...], Spans] = {}  # by their tokens: a forward has few such
        # Of each row those that change what is made of its time; and of these, what differs.
        self.on_times: list[Loras] = [tuple(lora for lora in row if lora.on_times) for row in loras]
        self.zeros: list[Loras] = list({identity(row): row for row in self.on_times}.values())
        numbers = {identity(row): number for number, row in enumerate(self.zeros)}
        self.zero_of_row = [numbers[identity(row)] for row in self.on_times]

    def __bool__(self) -> bool:
        return bool(self._layers)

    def __enter__(self) -> Self:
        self._hooks += [layer.register_forward_hook(self._add) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def over(self, tokens: Sequence[int], loras: Sequence[Loras] | None = None) -> None:
        """What is called next has so many tokens of each row, or of each of `loras`, end to end."""
        if not self:
            return
        if loras is not None:
            self._spans = spans(tokens, loras)
            return
        key = tuple(tokens)
        if key not in self._spans_of_rows:
            self._spans_of_rows[key] = spans(key, self._loras)
        self._spans = self._spans_of_rows[key]

    def whole(self, loras: Loras) -> None:
        """What is called next has tokens of one row, which has these."""
        self._spans = [(0, None, loras)]

    def _add(self, layer: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        inputs, outputs = given[0].flatten(0, -2), made.view(-1, made.shape[-1])
        for start, stop, loras in self._spans:
            for lora in loras:
                if layer in lora.layers:
                    add(lora.layers[layer], lora.weight, inputs[start:stop], outputs[start:stop])


def spans(tokens: Sequence[int], loras: Sequence[Loras]) -> Spans:
    """Neighbours with the same adapters have one."""
    ends = [0, *accumulate(tokens)]
    pieces = list(zip(ends[:-1], ends[1:], loras, strict=True))
    same = (list(group) for _, group in groupby(pieces, lambda piece: identity(piece[2])))
    return [(group[0][0], group[-1][1], group[0][2]) for group in same]


def add(low_rank: LowRank, weight: float, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
    """To (tokens, outputs) what it makes of (tokens, inputs)."""
    down, up = (matrix.to(outputs) for matrix in low_rank)
    outputs.addmm_(inputs.to(outputs) @ down.T, up.T, alpha=weight)


def together(make: Callable[[Sequence[Row], Adapting], Velocities], rows: Sequence[Row]) -> Velocities:
    """`make` of all rows, those with the same adapters side by side: each adapter then has one product in a layer."""
    first: dict[Hashable, int] = {}
    order = sorted(range(len(rows)), key=lambda row: first.setdefault(identity(rows[row].loras), len(first)))
    with Adapting([rows[row].loras for row in order]) as adapting:
        made = dict(zip(order, make([rows[row] for row in order], adapting), strict=True))
    return [made[row] for row in range(len(rows))]


def one_by_one(make: Callable[[Row], torch.Tensor], rows: Sequence[Row]) -> Velocities:
    velocities = []
    for row in rows:
        with adapted(row.loras):
            velocities.append(make(row))
    return velocities


@contextmanager
def adapted(loras: Loras) -> Iterator[None]:
    """Whatever is called has tokens of one row, which has these."""
    with Adapting([loras]) as adapting:
        adapting.whole(loras)
        yield


def identity(loras: Loras) -> Hashable:
    """By which rows with the same adapters are found."""
    return tuple(lora.identity for lora in loras)
