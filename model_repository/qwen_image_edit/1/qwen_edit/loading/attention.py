"""Which kernel computes the transformer's attention, through diffusers' dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import attention_backend

from qwen_edit.forward.attention import Varlen, varlen_operator
from qwen_edit.loading.checkpoint import LoadError

ON_THE_CPU = ("native", "native_flash", "native_math")
UNDERSCORED = ("native_cudnn", "native_flash", "native_efficient", "native_math", "flash_3", "flash_3_hub")


def set_backend(transformer: Any, name: str, device: torch.device) -> None:
    """Raises LoadError where the backend cannot run here."""
    if name == "native":
        return
    if device.type != "cuda" and name not in ON_THE_CPU:
        raise LoadError(
            f"ATTENTION_BACKEND={name}: a CUDA GPU is needed, this instance runs on the {device.type.upper()}; "
            f"one of {', '.join(ON_THE_CPU)} runs there"
        )
    try:
        # diffusers makes it everybody's in the process as well; this takes that back.
        with attention_backend("native"):
            transformer.set_attention_backend(f"_{name}" if name in UNDERSCORED else name)
    except (RuntimeError, ImportError, ValueError) as error:
        raise LoadError(f"ATTENTION_BACKEND={name}: {str(error).splitlines()[0]}") from None


def varlen(name: str, device: torch.device) -> Varlen | None:
    """For rows too short for a call of their own; a backend that was chosen by name computes these too."""
    return varlen_operator(device) if name == "native" else None
