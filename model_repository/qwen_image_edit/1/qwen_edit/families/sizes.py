"""The sizes that a job works at: of its output, and of its references as each part sees them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import SOURCE, Family, Size
from qwen_edit.families.grid import AUTO_OFF, MOST_OFF, aspect_error, grid_size, grid_size_at, shaped, within
from qwen_edit.families.layering import RESOLUTIONS, Layering
from qwen_edit.settings import MIN_SIDE, Limits

ENLARGED = 6  # times MAX_PIXELS: the most that a picture has in an answer of its own size, a phone's by default
MAX_ANSWER_SIDE = 16_384  # pixels
SQUARE: Size = (1, 1)  # the shape of an output that has no reference
# A step only attends to a prefix. At the real size and an output of 1024x1024 that is a seventh of a token's arithmetic
# (4 x 4096 x 32 for each token of the output, of 2 x 7.1 G); of smaller outputs it is less.
ATTENDED = 8
EVEN = 2  # tokens: an odd number of them has no middle, and a checkpoint of one area would shift its picture


@dataclass(frozen=True)
class Geometry:
    """The sizes of one job."""

    answer: Size  # that the picture has in the end
    output: Size  # at which it is rendered
    references: tuple[Size, ...]  # as the VAE encodes them
    conditions: tuple[Size, ...]  # as the text encoder sees them
    token_pixels: int  # a side
    has_prefix: bool = False  # text and references are one; their tokens are all counted with the text's, see Prompt
    frames: int = 1  # that are rendered together; of layers, the first is their composition

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(frames, height, width) in tokens of the output, and of each reference, which is one frame."""
        frames = (self.frames, *[1] * len(self.references))
        return [
            (count, height // self.token_pixels, width // self.token_pixels)
            for count, (width, height) in zip(frames, (self.output, *self.references), strict=True)
        ]

    @property
    def tokens(self) -> list[int]:
        """Of the output and of each reference."""
        return [frames * height * width for frames, height, width in self.shapes]

    @property
    def frame_tokens(self) -> int:
        """Of one frame of the output."""
        return self.tokens[0] // self.frames

    def row_tokens(self, text_tokens: int) -> int:
        """What a step of a transformer input with so many text tokens costs, in tokens that all layers work on."""
        return self.tokens[0] + text_tokens // ATTENDED if self.has_prefix else sum(self.tokens) + text_tokens


class Sizes:
    """Chooses the sizes of a job as the family's pipeline does, with the reference area as a setting."""

    def __init__(
        self,
        family: Family,
        reference_area: int,
        token_pixels: int,
        *,
        one_area: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """`one_area`: the checkpoint knows no other than the references' area, and copies them place by place."""
        self.family = family
        self.reference_area = reference_area
        # One picture serves both encoders where the VAE's tokens take the places of the text's.
        self.condition_area = reference_area if family.has_prefix else min(family.condition_area, reference_area)
        self.token_pixels = token_pixels  # a side: outputs are rendered in whole tokens
        self._one_area = one_area
        self._cell = token_pixels * (2 if family.has_prefix else 1)
        self._limits = limits or Limits()
        module = importlib.import_module(family.module)
        self._calculate: Callable[[int, float], tuple[int, ...]] = module.calculate_dimensions

    @property
    def answer_pixels(self) -> int:
        """Most of an answer at its source's own size."""
        return ENLARGED * self._limits.pixels

    def geometry(self, images: Sequence[Size], requested: Size | None, *, masked: bool) -> Geometry:
        """`images`: sizes of the decoded references; `requested`: the output size asked for, or SOURCE."""
        if len(images) > self.family.max_references:
            raise BadRequest(
                "image",
                f"{len(images)} reference images: this checkpoint ({self.family.pipeline}) takes at most "
                f"{self.family.max_references}",
            )
        if not images and requested == SOURCE:
            raise BadRequest("size", "the source's, without a reference image: name the size")
        shaping = SQUARE if not images else images[0] if masked else images[self.family.sizes_output_by]
        if requested is None:
            output = self._at_area(shaping)
            answer = output if aspect_error(output, shaping) <= AUTO_OFF else shaped(shaping, output)
        else:
            answer = self._own(images[0]) if requested == SOURCE else requested
            output = self._rendered(answer)
        return Geometry(
            answer=answer,
            output=output,
            references=tuple(output if self._one_area else self.area_of(size, self.reference_area) for size in images),
            conditions=tuple(self.area_of(size, self.condition_area) for size in images) if self.condition_area else (),
            token_pixels=self.token_pixels,
            has_prefix=self.family.has_prefix,
        )

    def layered(self, picture: Size, layering: Layering) -> Geometry:
        """Of a picture that is taken apart, in its own shape: the reference area is that of the largest resolution."""
        output = self.area_of(picture, self.reference_area * layering.resolution**2 // max(RESOLUTIONS) ** 2)
        limits = self._limits
        if max(output) > limits.side or output[0] * output[1] > limits.pixels:
            raise BadRequest(
                "resolution",
                f"{layering.resolution}, at which layers have {output[0]}x{output[1]} pixels: at most {limits.side} a "
                f"side and {limits.pixels} in all are allowed",
            )
        return Geometry(output, output, (output,), (), self.token_pixels, frames=1 + layering.layers)

    def usual(self) -> Geometry:
        """Of an edit of one picture in landscape."""
        if self.family.layers:
            return self.layered((4, 3), Layering())
        return self.geometry([(1, 1)], self.area_of((4, 3), self.reference_area), masked=False)

    def area_of(self, size: Size, area: int) -> Size:
        """The shape of `size` at about `area` pixels, sides multiples of 32."""
        width, height = self._calculate(area, size[0] / size[1])[:2]
        return max(width, 32), max(height, 32)

    def _own(self, size: Size) -> Size:
        return within(size, MAX_ANSWER_SIDE, self.answer_pixels, MIN_SIDE)

    def _rendered(self, answer: Size) -> Size:
        if self._one_area:
            return self._at_area(answer)
        return grid_size(within(answer, self._limits.side, self._limits.pixels, MIN_SIDE), self._cell)

    def _at_area(self, size: Size) -> Size:
        """As the pipelines do it, where that keeps the shape."""
        usual = self.area_of(size, self.reference_area)
        if aspect_error(usual, size) <= MOST_OFF:
            return usual
        return grid_size_at(size, self.reference_area, EVEN * self.token_pixels)
