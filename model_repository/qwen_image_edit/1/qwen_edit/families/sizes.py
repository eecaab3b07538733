"""The sizes that a job works at: of its output, and of its references as each part sees them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Family, Size


@dataclass(frozen=True)
class Geometry:
    """The sizes of one job."""

    output: Size
    references: tuple[Size, ...]  # as the VAE encodes them
    conditions: tuple[Size, ...]  # as the text encoder sees them
    token_pixels: int  # a side

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(1, height, width) in tokens of the output and of each reference."""
        return [
            (1, height // self.token_pixels, width // self.token_pixels)
            for width, height in (self.output, *self.references)
        ]

    @property
    def tokens(self) -> list[int]:
        """Of the output and of each reference."""
        return [height * width for _, height, width in self.shapes]


class Sizes:
    """Chooses the sizes of a job as the family's pipeline does, with the reference area as a setting."""

    def __init__(self, family: Family, reference_area: int, token_pixels: int) -> None:
        self.family = family
        self.reference_area = reference_area
        self.condition_area = min(family.condition_area, reference_area)
        self.token_pixels = token_pixels  # a side: output sides are rounded down to it
        module = importlib.import_module(family.module)
        self._calculate: Callable[[int, float], tuple[int, ...]] = module.calculate_dimensions

    def geometry(self, images: Sequence[Size], requested: Size | None, *, masked: bool) -> Geometry:
        """`images`: sizes of the decoded references; `requested`: the output size asked for."""
        if len(images) > self.family.max_references:
            raise BadRequest(
                "image",
                f"{len(images)} reference images: this checkpoint ({self.family.pipeline}) takes at most "
                f"{self.family.max_references}",
            )
        shaping = images[0] if masked else images[self.family.sizes_output_by]
        output = requested or self.area_of(shaping, self.reference_area)
        width, height = (side // self.token_pixels * self.token_pixels for side in output)
        return Geometry(
            output=(width, height),
            references=tuple(self.area_of(size, self.reference_area) for size in images),
            conditions=tuple(self.area_of(size, self.condition_area) for size in images),
            token_pixels=self.token_pixels,
        )

    def area_of(self, size: Size, area: int) -> Size:
        """The shape of `size` at about `area` pixels, sides multiples of 32."""
        width, height = self._calculate(area, size[0] / size[1])[:2]
        return max(width, 32), max(height, 32)
