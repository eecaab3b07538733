"""LoRA files for tests, in the forms that trainers write."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from qwen_edit.loading.loras import sides_of
from safetensors.torch import save_file

RANK = 2

Tensors = dict[str, torch.Tensor]
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # down and up by layer


def pairs(transformer: Any, layers: Sequence[str], *, seed: int, rank: int = RANK, size: float = 0.15) -> Pairs:
    """For all layers of the transformer in whose names one of these occurs."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: sides for name, sides in sides_of(transformer).items() if any(each in name for each in layers)}
    return {
        name: (
            torch.randn(rank, inputs, generator=generator) * size,
            torch.randn(outputs, rank, generator=generator) * size,
        )
        for name, (inputs, outputs) in found.items()
    }


def diffusers_keys(matrices: Pairs) -> Tensors:
    return _keyed(matrices, lambda layer: f"transformer.{layer}", ("lora_A", "lora_B"))


def trainer_keys(matrices: Pairs, *, alpha: float) -> Tensors:
    """As most trainers write them, for ComfyUI."""
    alphas = {f"diffusion_model.{layer}.alpha": torch.tensor(alpha) for layer in matrices}
    return _keyed(matrices, lambda layer: f"diffusion_model.{layer}", ("lora_A", "lora_B")) | alphas


def kohya_keys(matrices: Pairs, *, alpha: float) -> Tensors:
    def flat(layer: str) -> str:
        return f"lora_unet_{layer.replace('.', '_')}"

    alphas = {f"{flat(layer)}.alpha": torch.tensor(alpha) for layer in matrices}
    return _keyed(matrices, flat, ("lora_down", "lora_up")) | alphas


def _keyed(matrices: Pairs, named: Callable[[str], str], words: tuple[str, str]) -> Tensors:
    return {
        f"{named(layer)}.{word}.weight": matrix
        for layer, both in matrices.items()
        for word, matrix in zip(words, both, strict=True)
    }


def write(folder: Path, name: str, tensors: Tensors, *, config: dict[str, Any] | None = None) -> Path:
    """`config`: peft's, as diffusers writes it beside the weights."""
    path = folder / f"{name}.safetensors"
    told = {f"transformer.{key}": value for key, value in (config or {}).items()}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        path,
        metadata={"format": "pt", **({"lora_adapter_metadata": json.dumps(told)} if config else {})},
    )
    return path
