"""Compiling what the transformer's blocks do with each token for itself, before the first edit comes.

The number of tokens is a symbol in the compiled code, and rows are unknown to it: no size of a user's, no number of
edits at once and no kernel of attention compiles anything again.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.block import Halves, after_attention, before_attention
from qwen_edit.pipeline import Pipeline, Row

log = logging.getLogger("image_edit_server")

BACKEND = "inductor"
TEXT_TOKENS = (300, 250, 200)  # of the warm-up's rows; a prompt with one picture has about as many


def compiled_halves() -> Halves:
    options: dict[str, Any] = {"dynamic": True, "fullgraph": True, "backend": BACKEND}
    return Halves(torch.compile(before_attention, **options), torch.compile(after_attention, **options))


def warm_up(pipeline: Pipeline, reference_area: int) -> None:
    """Compiles by a forward at the size of the references."""
    started = time.monotonic()
    log.info("Compiling the transformer's blocks...")
    forward(pipeline, reference_area)
    log.info("Compiled in %.1f s", time.monotonic() - started)


@torch.inference_mode()
def forward(pipeline: Pipeline, reference_area: int, text_tokens: tuple[int, ...] = TEXT_TOKENS) -> None:
    """Of one row for each text.

    The compiler takes lengths that are equal for the same one. Three rows have four times, and nothing else is 4 long.
    """
    geometry = Sizes(pipeline.family, reference_area, pipeline.token_pixels).usual()
    config = pipeline.parts.transformer.config
    place: dict[str, Any] = {"device": pipeline.devices.transformer, "dtype": pipeline.dtype}
    pipeline.velocities(
        [
            Row(
                torch.zeros(sum(geometry.tokens), pipeline.token_channels, **place),
                tuple(geometry.shapes),
                torch.zeros(tokens, config.joint_attention_dim, **place),
                0.5,
            )
            for tokens in text_tokens
        ]
    )
    if pipeline.devices.transformer.type == "cuda":
        torch.cuda.synchronize(pipeline.devices.transformer)
