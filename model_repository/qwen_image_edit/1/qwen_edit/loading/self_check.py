"""Before anything is served: our forward of a few rows together against diffusers' own forward of each alone.

The weights that were loaded are the witness. Each way of being faster is switched on by itself, and stays on where what
comes out is diffusers' own but for rounding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.forward import ragged
from qwen_edit.forward.block import Paths
from qwen_edit.pipeline import Pipeline, Row

log = logging.getLogger("image_edit_server")

# Height and width in tokens of a row's output and of its references, its text tokens, its time.
CROWD = (
    (((8, 8), (6, 10)), 9, 0.9),
    (((6, 10), (8, 8), (4, 7)), 33, 0.5),
    (((8, 4),), 17, 0.3),
)
FRAMES = 3  # of an output that is taken apart
# An error in the last bit of what goes in makes all later rounding fall otherwise: what that does to diffusers' result
# is the noise of the dtype. Ours may be off by so many times as much.
TIMES_THE_NOISE = 4.0
LEAST_BOUND = 1e-4


class Fast(NamedTuple):
    """A way of being faster."""

    name: str
    on: Callable[[], None]
    off: Callable[[], None]
    wanted: bool = False  # by name: where it cannot be switched on, the model is not served


class SelfCheck:
    @torch.inference_mode()
    def __init__(self, pipeline: Pipeline, paths: Paths) -> None:
        self._pipeline, self._paths = pipeline, paths
        started = time.monotonic()
        self._rows = crowd(pipeline)
        transformer = pipeline.parts.transformer
        self._references = [ragged.alone(transformer, row) for row in self._rows]
        self._noise = distance(ragged.alone(transformer, off_by_rounding(self._rows[0])), self._references[0])
        self._bound = max(TIMES_THE_NOISE * self._noise, LEAST_BOUND)
        self._figures: list[str] = []
        self._seconds = time.monotonic() - started  # without what switching on takes, such as compiling

    def run(self, ways: Sequence[Fast]) -> None:
        """Raises what switching on a way that is wanted raises, and what running out of memory does."""
        if self._stays_on(Fast("rows of any shape in one forward", self._together, self._apart)):
            for way in ways:
                self._stays_on(way)
        log.info(
            "Self-check: off by %s; diffusers' own rounding makes %.1e, %.1e is allowed (%.1f s)",
            ", ".join(self._figures), self._noise, self._bound, self._seconds,
        )  # fmt: skip

    def _stays_on(self, way: Fast) -> bool:
        try:
            way.on()
            right = self._is_right(way.name)
        except Exception as error:  # compilers and kernels raise almost anything
            if way.wanted or is_out_of_memory(error):
                raise
            log.warning("%s: %s; served without", way.name, (str(error).splitlines() or [type(error).__name__])[0])
            right = False
        if not right:
            way.off()
        return right

    def _together(self) -> None:
        self._paths.together = True

    def _apart(self) -> None:
        self._paths.together = False

    @torch.inference_mode()
    def _is_right(self, name: str) -> bool:
        started = time.monotonic()
        made = self._pipeline.velocities(self._rows)
        off = max(map(distance, made, self._references))
        self._seconds += time.monotonic() - started
        self._figures.append(f"{off:.1e} with {name}")
        if off <= self._bound:
            return True
        log.warning(
            "%s: off by %.1e from diffusers' own forward, where rounding makes %.1e; served without",
            name, off, self._noise,
        )  # fmt: skip
        return False


def crowd(pipeline: Pipeline) -> list[Row]:
    config: Any = pipeline.parts.transformer.config
    place: dict[str, Any] = {"device": pipeline.devices.transformer, "dtype": pipeline.dtype}
    generator = torch.Generator().manual_seed(0)

    def drawn(tokens: int, width: int) -> torch.Tensor:
        return torch.randn(tokens, width, generator=generator).to(**place)

    frames = FRAMES if pipeline.family.layers else 1
    rows = []
    for (output, *references), text_tokens, moment in CROWD:
        shapes = ((frames, *output), *((1, *sides) for sides in references))
        tokens = drawn(sum(map(prod, shapes)), config.in_channels)
        rows.append(Row(tokens, shapes, drawn(text_tokens, config.joint_attention_dim), moment))
    return rows


def off_by_rounding(row: Row) -> Row:
    signs = torch.ones_like(row.tokens)
    signs[::2] = -1
    return Row(row.tokens * (1 + torch.finfo(row.tokens.dtype).eps * signs), row.shapes, row.text, row.time)


def distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of the difference over the reference's; infinite where there are no numbers."""
    off = float((ours.double() - reference.double()).norm() / reference.double().norm())
    return off if off >= 0 else float("inf")
