"""Fewer bits for the weights of the transformer and of the text encoder, layer by layer on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from qwen_edit.loading.checkpoint import LoadError

# The layers that make a modulation out of the timestep: a third of the transformer's weights, none of its time, and
# what an error in them is multiplied with is everything.
MODULATIONS = ("img_mod", "txt_mod")
FP8_CAPABILITY = (8, 9)  # Ada, Hopper and newer multiply fp8
FP8_MULTIPLE = 16  # fp8 products want both sides of a weight to be a multiple of this


@dataclass(frozen=True)
class Target:
    """A part of the pipeline whose weights can be quantised."""

    setting: str
    blocks: str  # prefix of the layers that are; the few others stay as they are
    part: Callable[[Any], torch.nn.Module]


TRANSFORMER = Target("QUANTIZATION", "transformer_blocks.", lambda pipeline: pipeline.transformer)
TEXT_ENCODER = Target("TEXT_ENCODER_QUANTIZATION", "language_model.layers.", lambda p: p.text_encoder.model)


def check(target: Target, kind: str, device: torch.device) -> None:
    """Raises LoadError where this device cannot do it."""
    needed = {"fp8": "a CUDA GPU of compute capability 8.9 or newer", "nf4": "a CUDA GPU"}.get(kind)
    if needed is None:
        return
    if device.type != "cuda":
        raise LoadError(f"{target.setting}={kind}: {needed} is needed, this instance runs on the {device.type.upper()}")
    capability = torch.cuda.get_device_capability(device)
    if kind == "fp8" and capability < FP8_CAPABILITY:
        has = ".".join(map(str, capability))
        raise LoadError(f"{target.setting}={kind}: {needed} is needed, {device} has {has}")


def quantize(pipeline: Any, target: Target, kind: str, device: torch.device) -> int:
    """Quantises the Linear layers of the target's blocks on `device`; how many there were. Raises LoadError."""
    if kind == "none":
        return 0
    check(target, kind, device)
    module = target.part(pipeline)
    layers = {name for name, layer in module.named_modules() if is_quantised(name, layer, target, kind)}
    try:
        _METHODS[kind](module, layers, device)
    except ImportError as error:
        raise LoadError(f"{target.setting}={kind}: the Python package {error.name} is needed") from None
    return len(layers)


def is_quantised(name: str, layer: torch.nn.Module, target: Target, kind: str) -> bool:
    """The matrices of a LoRA that was not fused stay as they are: they are small."""
    if not isinstance(layer, torch.nn.Linear) or not name.startswith(target.blocks) or "lora_" in name:
        return False
    if kind != "fp8":
        return True
    fits = layer.in_features % FP8_MULTIPLE == 0 and layer.out_features % FP8_MULTIPLE == 0
    return fits and not any(part in MODULATIONS for part in name.split("."))


def _int8(module: torch.nn.Module, layers: set[str], device: torch.device) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    _torchao(module, layers, device, Int8WeightOnlyConfig(set_inductor_config=False))


def _fp8(module: torch.nn.Module, layers: set[str], device: torch.device) -> None:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    _torchao(module, layers, device, config)


def _torchao(module: torch.nn.Module, layers: set[str], device: torch.device, config: Any) -> None:
    from torchao.quantization import quantize_

    quantize_(module, config, filter_fn=lambda _, name: name in layers, device=device)


def _nf4(module: torch.nn.Module, layers: set[str], device: torch.device) -> None:
    for name in sorted(layers):
        parent, _, child = name.rpartition(".")
        owner = module.get_submodule(parent)
        setattr(owner, child, _nf4_layer(getattr(owner, child), device))


def _nf4_layer(layer: torch.nn.Linear, device: torch.device) -> Any:
    import bitsandbytes

    small = bitsandbytes.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=layer.weight.dtype,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    small.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=small)
    small.bias = layer.bias
    return small.to(device)  # the move quantises


_METHODS = {"int8": _int8, "fp8": _fp8, "nf4": _nf4}
