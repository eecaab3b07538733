"""Which LoRA adapters lie where the transformer is: bounded in bytes, the least recently used dropped first.

An edit holds its adapters in main memory, whence one that was dropped comes back when a step needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
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

Placed = Mapping[torch.nn.Module, LowRank]  # by the layers of one transformer, where they compute

TIME_EMBEDDING = "time_text_embed"
MODULATIONS = ("img_mod", "txt_mod")


class LoraStore:
    """Not for several threads. Holds more than `max_bytes` only where one edit alone needs more."""

    def __init__(self, pipeline: Pipeline, max_bytes: int, replicas: Sequence[Pipeline] = ()) -> None:
        """Beside each of the `replicas` lies the same; bytes are those of one."""
        self._pipelines = [pipeline, *replicas]
        self._kept: OrderedDict[str, tuple[Lora, list[Placed]]] = OrderedDict()
        self.max_bytes = max_bytes
        self.bytes = 0

    def weighed(self, adapters: Adapters) -> Loras:
        """Let go of them when the forward is made."""
        return tuple(
            Weighed(lora.digest, weight, found[0], on_times=lora.on_times, elsewhere=found[1:])
            for lora, weight, found in ((lora, weight, self._placed(lora)) for lora, weight in adapters)
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

    def _placed(self, lora: Lora) -> list[Placed]:
        if lora.digest not in self._kept:
            self._kept[lora.digest] = lora, [placed(lora, pipeline) for pipeline in self._pipelines]
            self.bytes += lora.bytes
        self._kept.move_to_end(lora.digest)
        return self._kept[lora.digest][1]

    def _drop(self, digest: str) -> None:
        lora, _ = self._kept.pop(digest)
        self.bytes -= lora.bytes


def placed(lora: Lora, pipeline: Pipeline) -> Placed:
    transformer, device = pipeline.parts.transformer, pipeline.devices.transformer
    layers = {transformer.get_submodule(name): low_rank for name, low_rank in lora.layers.items()}
    return {
        layer: LowRank(*(matrix.to(_beside(layer, device)) for matrix in low_rank))
        for layer, low_rank in layers.items()
    }


def _beside(layer: Any, device: torch.device) -> torch.device:
    """Where its weights are, which may be on another card than inputs are; or wait in main memory."""
    own: torch.device = layer.weight.device
    return own if own.type == device.type else device


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
