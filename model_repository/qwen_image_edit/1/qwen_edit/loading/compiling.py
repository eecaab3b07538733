"""Compiling the transformer's blocks, all of them as one, before the first edit comes.

The lengths of pictures and texts are symbols in the compiled code, so that no size of a user's compiles again; only one
row or several, and a mask or none, are code of their own. All are compiled at load.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from qwen_edit.families.sizes import Sizes
from qwen_edit.forward import rotary

log = logging.getLogger("image_edit_server")

BACKEND = "inductor"
TEXT_TOKENS = 300  # of the warm-up; a prompt with one picture has about as many


@dataclass(frozen=True)
class Variant:
    """What the compiler makes code of its own for."""

    rows: int
    masked: bool

    def __str__(self) -> str:
        rows = "one row" if self.rows == 1 else "several rows"
        return f"{rows} with texts of different length" if self.masked else rows


VARIANTS = (Variant(1, False), Variant(2, False), Variant(2, True))


def compile_blocks(transformer: Any, *, dynamic: bool = True) -> None:
    transformer.compile_repeated_blocks(dynamic=dynamic, fullgraph=True, backend=BACKEND)


def prepare(transformer: Any) -> None:
    """What compiled code needs to be fast; before the attention backend is chosen."""
    rotary.use_real_numbers(transformer)


def warm_up(transformer: Any, sizes: Sizes, device: torch.device, *, masks: bool) -> None:
    """Compiles every variant at the size of the references, with a line in the log for each."""
    variants = [variant for variant in VARIANTS if masks or not variant.masked]
    for number, variant in enumerate(variants, 1):
        started = time.monotonic()
        log.info("Compiling %d of %d: %s...", number, len(variants), variant)
        _forward(transformer, sizes, device, variant)
        log.info("Compiled %d of %d in %.1f s", number, len(variants), time.monotonic() - started)


@torch.inference_mode()
def _forward(transformer: Any, sizes: Sizes, device: torch.device, variant: Variant) -> None:
    # Sides that differ, so that the compiler does not take one length for the other.
    output, reference = (sizes.area_of(shape, sizes.reference_area) for shape in ((4, 3), (1, 1)))
    shapes = [(1, height // sizes.multiple, width // sizes.multiple) for width, height in (output, reference)]
    tokens = sum(height * width for _, height, width in shapes)
    place: dict[str, Any] = {"device": device, "dtype": transformer.dtype}
    mask = torch.ones(variant.rows, TEXT_TOKENS, dtype=torch.bool, device=device) if variant.masked else None
    transformer(
        hidden_states=torch.zeros(variant.rows, tokens, transformer.config.in_channels, **place),
        encoder_hidden_states=torch.zeros(variant.rows, TEXT_TOKENS, transformer.config.joint_attention_dim, **place),
        encoder_hidden_states_mask=mask,
        timestep=torch.full((variant.rows,), 0.5, device=device),
        img_shapes=[shapes] * variant.rows,
        return_dict=False,
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
