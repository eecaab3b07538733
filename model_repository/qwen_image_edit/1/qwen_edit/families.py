"""What differs between the Qwen-Image-Edit families, and the sizes each works at.

Source of the numbers: diffusers' QwenImageEditPipeline and QwenImageEditPlusPipeline, and the model cards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwen_edit.errors import BadRequest

MEGAPIXEL = 1024 * 1024  # the area, in pixels, at which every family encodes its references
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Family:
    pipeline: str  # diffusers class, as model_index.json names it
    module: str  # that defines it, and its calculate_dimensions
    max_references: int
    num_inference_steps: int
    condition_area: int  # pixels of a reference as the text encoder sees it
    sizes_output_by: int  # index of the reference whose shape the output takes


FAMILIES = {
    family.pipeline: family
    for family in (
        Family(
            pipeline="QwenImageEditPipeline",
            module="diffusers.pipelines.qwenimage.pipeline_qwenimage_edit",
            max_references=1,
            num_inference_steps=50,
            condition_area=MEGAPIXEL,
            sizes_output_by=0,
        ),
        Family(
            pipeline="QwenImageEditPlusPipeline",
            module="diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus",
            max_references=16,
            num_inference_steps=40,
            condition_area=384 * 384,
            sizes_output_by=-1,
        ),
    )
}


@dataclass(frozen=True)
class Geometry:
    """The sizes of one job. Rows of different jobs share a forward only where output and references are equal."""

    output: Size
    references: tuple[Size, ...]  # as the VAE encodes them
    conditions: tuple[Size, ...]  # as the text encoder sees them


class Sizes:
    """Chooses the sizes of a job as the family's pipeline does, with the reference area as a setting."""

    def __init__(self, family: Family, reference_area: int, multiple: int) -> None:
        self.family = family
        self.reference_area = reference_area
        self.condition_area = min(family.condition_area, reference_area)
        self.multiple = multiple  # pixels a latent patch spans: output sides are rounded down to it
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
        width, height = (side // self.multiple * self.multiple for side in output)
        return Geometry(
            output=(width, height),
            references=tuple(self.area_of(size, self.reference_area) for size in images),
            conditions=tuple(self.area_of(size, self.condition_area) for size in images),
        )

    def area_of(self, size: Size, area: int) -> Size:
        """The shape of `size` at about `area` pixels, sides multiples of 32."""
        width, height = self._calculate(area, size[0] / size[1])[:2]
        return max(width, 32), max(height, 32)
