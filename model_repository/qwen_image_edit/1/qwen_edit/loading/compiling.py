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
from qwen_edit.pipeline import Pipeline

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


def warm_up(pipeline: Pipeline, reference_area: int, *, masks: bool) -> None:
    """Compiles every variant at the size of the references, with a line in the log for each."""
    variants = [variant for variant in VARIANTS if masks or not variant.masked]
    for number, variant in enumerate(variants, 1):
        started = time.monotonic()
        log.info("Compiling %d of %d: %s...", number, len(variants), variant)
        forward(pipeline, reference_area, variant)
        log.info("Compiled %d of %d in %.1f s", number, len(variants), time.monotonic() - started)


@torch.inference_mode()
def forward(pipeline: Pipeline, reference_area: int, variant: Variant) -> None:
    # Sides that differ, so that the compiler does not take one length for the other.
    sizes = Sizes(pipeline.family, reference_area, pipeline.token_pixels)
    geometry = sizes.geometry([(1, 1)], sizes.area_of((4, 3), reference_area), masked=False)
    device, config = pipeline.devices.transformer, pipeline.parts.transformer.config
    rows, tokens = variant.rows, sum(geometry.tokens)
    pipeline.velocities(
        torch.zeros(rows, tokens, pipeline.token_channels, device=device, dtype=pipeline.dtype),
        torch.full((rows,), 0.5, device=device),
        torch.zeros(rows, TEXT_TOKENS, config.joint_attention_dim, device=device, dtype=pipeline.dtype),
        torch.ones(rows, TEXT_TOKENS, dtype=torch.bool, device=device) if variant.masked else None,
        geometry.shapes,
    )
    if device.type == "cuda":
        torch.cuda.synchronize(device)
