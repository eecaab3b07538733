"""A few rows of any shape, made up, for the self-check: as our forward takes them together, and as diffusers' does."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import torch

from qwen_edit.forward import ragged
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.forward.reference21 import SLOT_TOKENS, ByDiffusers, Text
from qwen_edit.pipeline import Pipeline, Row, Shape

# Height and width in tokens of a row's output and of its references, its text tokens, its time.
ROWS = (
    (((8, 8), (6, 10)), 9, 0.9),
    (((6, 10), (8, 8), (4, 7)), 33, 0.5),
    (((8, 4),), 17, 0.3),
)
FRAMES = 3  # of an output that is taken apart


class Crowd(Protocol):
    """Velocities are those of each row's output, (tokens, channels)."""

    what: str  # is done with all rows

    def ours(self) -> list[torch.Tensor]: ...

    def by_diffusers(self) -> list[torch.Tensor]:
        """Of each row alone."""

    def off_by_rounding(self) -> torch.Tensor:
        """diffusers' of the first row, with an error in the last bit of what goes in."""


def crowd(pipeline: Pipeline) -> Crowd:
    return PrefixedRows(pipeline) if isinstance(pipeline, Pipeline21) else Rows(pipeline)


class Drawn:
    """Always the same."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._place: dict[str, Any] = {"device": pipeline.devices.transformer, "dtype": pipeline.dtype}
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, tokens: int, width: int) -> torch.Tensor:
        return torch.randn(tokens, width, generator=self._generator).to(**self._place)


class Rows:
    what = "rows of any shape in one forward"

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        config: Any = pipeline.parts.transformer.config
        drawn = Drawn(pipeline)
        frames = FRAMES if pipeline.family.layers else 1
        self._rows = []
        for sides, text_tokens, time in ROWS:
            shapes = shapes_of(sides, frames)
            tokens = drawn(sum(map(prod, shapes)), config.in_channels)
            self._rows.append(Row(tokens, shapes, drawn(text_tokens, config.joint_attention_dim), time))

    def ours(self) -> list[torch.Tensor]:
        return self._pipeline.velocities(self._rows)

    def by_diffusers(self) -> list[torch.Tensor]:
        return [ragged.alone(self._pipeline.parts.transformer, row) for row in self._rows]

    def off_by_rounding(self) -> torch.Tensor:
        first = self._rows[0]
        return ragged.alone(self._pipeline.parts.transformer, Row(nudged(first.tokens), *first[1:]))


class PrefixedRows:
    """Of Qwen-Image-2.1: what a prefix is made of, and the output behind it."""

    what = "prefixes made once and rows of any shape in one forward"

    def __init__(self, pipeline: Pipeline21) -> None:
        self._pipeline = pipeline
        transformer: Any = pipeline.parts.transformer
        self._diffusers = ByDiffusers(transformer, transformer)
        drawn = Drawn(pipeline)
        self._parts = []
        for sides, text_tokens, time in ROWS:
            shapes = shapes_of(sides)
            slots = [prod(shape) // SLOT_TOKENS for shape in shapes[1:]]
            before = text_tokens // 2
            is_picture = (*[False] * before, *[True] * sum(slots), *[False] * (text_tokens - before))
            text = Text(drawn(len(is_picture), transformer.config.context_in_dim), is_picture)
            output, *latents = (drawn(prod(shape), transformer.config.in_channels) for shape in shapes)
            self._parts.append((text, latents, output, shapes, time))

    def ours(self) -> list[torch.Tensor]:
        transformer = self._pipeline.parts.transformer
        rows = [
            Row(output, shapes, transformer(prefix=(text, latents, shapes[1:])), time)
            for text, latents, output, shapes, time in self._parts
        ]
        return self._pipeline.velocities(rows)

    def by_diffusers(self) -> list[torch.Tensor]:
        return [self._diffusers.whole(*parts) for parts in self._parts]

    def off_by_rounding(self) -> torch.Tensor:
        text, latents, output, shapes, time = self._parts[0]
        return self._diffusers.whole(text, latents, nudged(output), shapes, time)


def shapes_of(sides: Sequence[tuple[int, int]], frames: int = 1) -> tuple[Shape, ...]:
    """`frames` of the output, which is the first."""
    (height, width), *references = sides
    return ((frames, height, width), *((1, *each) for each in references))


def nudged(tokens: torch.Tensor) -> torch.Tensor:
    signs = torch.ones_like(tokens)
    signs[::2] = -1
    return tokens * (1 + torch.finfo(tokens.dtype).eps * signs)
