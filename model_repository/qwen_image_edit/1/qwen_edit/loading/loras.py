"""LoRA adapters for single requests: found by name, converted, and checked against the transformer.

What diffusers loads is taken: its own keys, those with a prefix of other trainers, `lora_down` and `lora_up` with their
`alpha`. Anything that is not for a layer of the transformer is refused, where diffusers would leave it out.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from diffusers.loaders import QwenImageLoraLoaderMixin
from peft.utils.other import get_pattern_key

from qwen_edit.errors import BadRequest, shown
from qwen_edit.forward.lora_store import Lora
from qwen_edit.loading.lora_files import LoraFile, LoraFiles, check_size
from qwen_edit.pipeline import LowRank, Pipeline

DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
PREFIX = "transformer."
MAX_SHOWN = 3  # keys that an error names
REPEATS = re.compile(r"[*+?{]")  # in an expression of a file, which could then be matched for ever
NOT_TAKEN = ("dora_scale", "lora_magnitude_vector")  # diffusers would leave out the first


class Loras:
    """For several threads. What is still in use is found again, whatever it was dropped from."""

    def __init__(self, files: LoraFiles, pipeline: Pipeline, max_bytes: int) -> None:
        self._files = files
        self._dtype = pipeline.dtype
        self._sides = sides_of(pipeline.parts.transformer)
        self._alive: WeakValueDictionary[str, Lora] = WeakValueDictionary()
        self._lock = threading.Lock()  # guards _alive
        self.max_bytes = max_bytes

    def known(self, name: str) -> Lora | None:
        """Where it is in memory; raises BadRequest where there is no such file."""
        digest = self._files.digest(name)
        with self._lock:
            return self._alive.get(digest) if digest else None

    def read(self, name: str) -> Lora:
        """Takes seconds, unless it was read while this one waited; raises BadRequest."""
        if (known := self.known(name)) is not None:
            return known
        file = self._files.read(name, itemsize=self._dtype.itemsize, max_bytes=self.max_bytes)
        lora = Lora(file.digest, self._layers(name, file))
        with self._lock:
            return self._alive.setdefault(file.digest, lora)

    def _layers(self, name: str, file: LoraFile) -> dict[str, LowRank]:
        pairs = matched(name, converted(name, file.tensors), self._sides)
        scales = scales_of(name, file.metadata, {layer: len(down) for layer, (down, _) in pairs.items()})
        layers = {
            layer: LowRank((down * scales[layer]).to(self._dtype), up.to(self._dtype))
            for layer, (down, up) in pairs.items()
        }
        for layer, low_rank in layers.items():
            if not all(torch.isfinite(matrix).all() for matrix in low_rank):
                raise BadRequest("lora", f"{name!r}: NaN or infinite weights of {layer}")
        return layers


def check_together(loras: Mapping[str, Lora], max_bytes: int) -> None:
    check_size(", ".join(map(repr, loras)), sum(lora.bytes for lora in loras.values()), max_bytes)


def sides_of(transformer: Any) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each layer that can be adapted."""
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in transformer.named_modules()
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and ".lora_" not in name
    }


def converted(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With diffusers' keys, each scaled by its alpha."""
    refused = [key for key in tensors if any(word in key for word in NOT_TAKEN)]
    if refused:
        raise unfit(name, refused)
    for key, value in tensors.items():
        # With others diffusers would look for a scale for ever.
        if key.endswith(ALPHA) and not (value.numel() == 1 and 0 < float(value) < math.inf):
            raise BadRequest("lora", f"{name!r}: {key[:100]}: a positive number is needed")
    try:
        state: dict[str, torch.Tensor] = QwenImageLoraLoaderMixin.lora_state_dict(dict(tensors))
    except Exception as error:  # foreign files surface as almost anything
        raise BadRequest("lora", f"{name!r}: in no form that diffusers knows ({type(error).__name__})") from None
    with_our_keys: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if _peft_key(key) in with_our_keys:
            raise BadRequest("lora", f"{name!r}: {shown(_peft_key(key))} twice, by other prefixes")
        with_our_keys[_peft_key(key)] = value
    return with_our_keys


def _peft_key(key: str) -> str:
    return key.removeprefix(PREFIX).replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.")


def matched(
    name: str, state: Mapping[str, torch.Tensor], sides: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Both matrices by the layer they are for; raises BadRequest that names keys which do not fit."""
    layers = {key.removesuffix(DOWN) for key in state if key.endswith(DOWN) and key.removesuffix(DOWN) + UP in state}
    unknown = [key for key in state if key.removesuffix(DOWN).removesuffix(UP) not in layers & sides.keys()]
    if unknown or not state:
        raise unfit(name, unknown)
    pairs = {layer: (state[layer + DOWN], state[layer + UP]) for layer in sorted(layers)}
    for layer, (down, up) in pairs.items():
        inputs, outputs = sides[layer]
        if down.ndim != 2 or tuple(down.shape[1:]) != (inputs,) or tuple(up.shape) != (outputs, len(down)):
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise BadRequest("lora", f"{name!r}: {layer}: {shapes}: [rank, {inputs}] and [{outputs}, rank] are needed")
    return pairs


def scales_of(name: str, metadata: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """What peft multiplies each layer's product with, by the configuration that diffusers writes beside the weights."""
    config = {key.removeprefix(PREFIX): value for key, value in metadata.items()}
    root = math.sqrt if config.get("use_rslora") else float
    try:
        pattern = dict(config.get("alpha_pattern") or {})
        if REPEATS.search("".join(pattern)):
            raise BadRequest("lora", f"{name!r}: its alpha_pattern repeats something: names of layers are allowed")
        alphas = {layer: pattern.get(get_pattern_key(list(pattern), layer)) for layer in ranks}
        usual = config.get("lora_alpha")
        return {
            layer: 1.0 if (alpha := alphas[layer] or usual) is None else float(alpha) / root(rank)
            for layer, rank in ranks.items()
        }
    except (TypeError, ValueError, ArithmeticError, RecursionError, re.error):
        raise BadRequest("lora", f"{name!r}: its metadata is no configuration of peft's") from None


def unfit(name: str, keys: list[str]) -> BadRequest:
    shown_keys = ", ".join(shown(key) for key in sorted(keys)[:MAX_SHOWN])
    more = f" and {len(keys) - MAX_SHOWN} more" if len(keys) > MAX_SHOWN else ""
    return BadRequest("lora", f"{name!r}: not for this transformer: {shown_keys or 'no weights'}{more}")
