"""Which kernel attention got here, for the log: torch takes a slower one without a word."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from qwen_edit.pipeline import Pipeline, dense_attention

log = logging.getLogger("image_edit_server")

HOPPER = (9, 0)
TOKENS = 256
OPERATOR = "aten::_scaled_dot_product_"


@torch.inference_mode()
def attention_kernel(pipeline: Pipeline) -> str:
    """torch's name for it; empty where it is not torch's."""
    attn = pipeline.parts.transformer.transformer_blocks[0].attn
    width = attn.inner_dim // attn.heads
    states = torch.zeros(TOKENS, attn.heads, width, device=pipeline.devices.transformer, dtype=pipeline.dtype)
    with torch.profiler.profile() as profiled:
        dense_attention(attn, states, states, states)
    names = {event.key.removeprefix(OPERATOR) for event in profiled.key_averages() if event.key.startswith(OPERATOR)}
    return ", ".join(sorted(names))


def cudnn_version() -> int | None:
    version: Callable[[], int | None] = torch.backends.cudnn.version
    return version()


def report(kernel: str, backend: str, cudnn: int | None, capability: tuple[int, int]) -> None:
    """With a warning where a Hopper GPU, left to choose, does not take cuDNN's."""
    log.info("Attention: ATTENTION_BACKEND=%s, kernel %s, cuDNN %s", backend, kernel or "of its own", cudnn)
    if backend == "native" and capability == HOPPER and "cudnn" not in kernel:
        log.warning("Attention is not cuDNN's, the fastest here: it needs 9.15.1 or newer, but finds %s first", cudnn)
