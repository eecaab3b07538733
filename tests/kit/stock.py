"""Edits with the diffusers pipelines themselves: the measure for the engine's results and its speed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from qwen_edit.families.family import MEGAPIXEL, Size
from qwen_edit.families.sizes import Sizes

TAKES_ONE = ("QwenImageEditPipeline", "QwenImageLayeredPipeline")


@contextmanager
def areas(sizes: Sizes) -> Iterator[None]:
    """Makes the diffusers pipeline use the areas of `sizes`, which are literals in its code."""
    module: Any = importlib.import_module(sizes.family.module)
    original = module.calculate_dimensions
    wanted = {MEGAPIXEL: sizes.reference_area, 384 * 384: sizes.condition_area}

    def calculate_dimensions(target_area: int, ratio: float) -> tuple[int, ...]:
        width, height, *rest = original(wanted.get(target_area, target_area), ratio)
        return max(width, 32), max(height, 32), *rest

    module.calculate_dimensions = calculate_dimensions
    try:
        yield
    finally:
        module.calculate_dimensions = original


@contextmanager
def resolutions(sizes: Sizes) -> Iterator[None]:
    """Likewise of a pipeline that takes pictures apart: its largest resolution stands for the reference area."""
    module: Any = importlib.import_module(sizes.family.module)
    original = module.calculate_dimensions

    def calculate_dimensions(target_area: int, ratio: float) -> tuple[int, ...]:
        width, height = original(target_area * sizes.reference_area // MEGAPIXEL, ratio)
        return max(width, 32), max(height, 32)

    module.calculate_dimensions = calculate_dimensions
    try:
        yield
    finally:
        module.calculate_dimensions = original


@torch.inference_mode()
def run(
    pipeline: Any,
    images: Sequence[Image.Image] | None,
    *,
    prompt: str,
    negative_prompt: str | None,
    true_cfg_scale: float,
    size: Size | None,
    num_inference_steps: int,
    seed: int,
    output_type: str = "latent",
    **options: Any,
) -> Any:
    """One edit: packed latents (tokens, channels), or a picture with output_type "np" or "pil"."""
    pipeline.set_progress_bar_config(disable=True)
    # A pipeline that takes pictures apart has no size.
    of_size = {} if "layers" in options else dict(zip(("width", "height"), size or (None, None), strict=True))
    # The Edit pipeline does not resize a picture for the text encoder when it comes in a list.
    image = images and (images[0] if type(pipeline).__name__ in TAKES_ONE else list(images))
    output = pipeline(
        image=image,
        prompt=prompt,
        negative_prompt=negative_prompt,
        true_cfg_scale=true_cfg_scale,
        **of_size,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type=output_type,
        **options,
    )
    return output.images[0]
