"""Which LoRA adapters lie where the transformer is: bounded in bytes, the least recently used dropped first.

An edit holds its adapters in main memory, whence one that was dropped comes back when a step needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from qwen_edit.pipeline import Loras, LowRank, Pipeline, Weighed


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA adapter, as its file has it."""

    digest: str  # of the file
    layers: Mapping[str, LowRank]  # by the names of the transformer's layers

    @cached_property
    def bytes(self) -> int:
        return sum(matrix.nbytes for low_rank in self.layers.values() for matrix in low_rank)

    @cached_property
    def on_times(self) -> bool:
        return any(map(is_on_times, self.layers))


Adapters = tuple[tuple[Lora, float], ...]  # of an edit, each with how much of it is added

TIME_EMBEDDING = "time_text_embed"
MODULATIONS = ("img_mod", "txt_mod")


class LoraStore:
    """Not for several threads. Holds more than `max_bytes` only where one edit alone needs more."""

    def __init__(self, pipeline: Pipeline, max_bytes: int) -> None:
        self._transformer: Any = pipeline.parts.transformer
        self._device = pipeline.devices.transformer
        self._kept: OrderedDict[str, tuple[Lora, Mapping[torch.nn.Module, LowRank]]] = OrderedDict()
        self.max_bytes = max_bytes
        self.bytes = 0

    def weighed(self, adapters: Adapters) -> Loras:
        """Let go of them when the forward is made."""
        return tuple(
            Weighed(lora.digest, weight, self._placed(lora), on_times=lora.on_times) for lora, weight in adapters
        )

    def make_room(self, loras: Iterable[Lora]) -> None:
        """For the next step, which needs these: others are dropped before one of them."""
        needed = {lora.digest: lora.bytes for lora in loras}
        for digest in needed.keys() & self._kept.keys():
            self._kept.move_to_end(digest)
        missing = sum(size for digest, size in needed.items() if digest not in self._kept)
        for digest in [digest for digest in self._kept if digest not in needed]:
            if self.bytes + missing > self.max_bytes:
                self._drop(digest)

    def give_back(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _placed(self, lora: Lora) -> Mapping[torch.nn.Module, LowRank]:
        if lora.digest not in self._kept:
            layers = {self._transformer.get_submodule(name): low_rank for name, low_rank in lora.layers.items()}
            placed = {
                layer: LowRank(*(matrix.to(self._where(layer)) for matrix in low_rank))
                for layer, low_rank in layers.items()
            }
            self._kept[lora.digest] = lora, placed
            self.bytes += lora.bytes
        self._kept.move_to_end(lora.digest)
        return self._kept[lora.digest][1]

    def _where(self, layer: Any) -> torch.device:
        """Beside its weights, which may be on another card than inputs are; or wait in main memory."""
        own: torch.device = layer.weight.device
        return own if own.type == self._device.type else self._device

    def _drop(self, digest: str) -> None:
        lora, _ = self._kept.pop(digest)
        self.bytes -= lora.bytes


def is_on_times(layer: str) -> bool:
    """Whether the layer of this name sees a row's time, and no token."""
    first, *rest = layer.split(".")
    return first == TIME_EMBEDDING or any(part in MODULATIONS for part in rest)


def identity_of(adapters: Adapters) -> str:
    """By which a run that continues is held against the one before it; empty: it has none."""
    told = [(lora.digest, weight) for lora, weight in adapters]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest() if told else ""


def needed_bytes(adapters: Iterable[Adapters]) -> int:
    """Of edits in one step, which share those that are the same."""
    return sum({lora.digest: lora.bytes for of_edit in adapters for lora, _ in of_edit}.values())
