"""What the text encoder makes of pictures, for more than one text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_edit.loading import pictures_once

from tests.kit.engines import edit, engine_on, load_pipeline


@pytest.fixture
def seen() -> list[int]:
    """Patches that the vision tower looked at, for each time that it did."""
    return []


def loaded(folder: Path, seen: list[int], *, bound: bool) -> Any:
    parts = load_pipeline(folder)
    visual = parts.text_encoder.model.visual
    visual.patch_embed.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    if bound:
        pictures_once.bind(parts.text_encoder.model)
    return parts


def test_a_guided_edit_has_its_pictures_looked_at_once_and_is_the_same(
    sensitive: Callable[[str], Path], photo: Callable[[str], bytes], seen: list[int]
) -> None:
    guided = edit(photo("cat"), photo("rocket"), true_cfg_scale=3.0, negative_prompt="grey", num_inference_steps=2)
    other = edit(photo("coffee"), true_cfg_scale=3.0, negative_prompt="grey", num_inference_steps=2)
    latents: list[list[Any]] = []
    looks = []
    for bound in (False, True):
        with engine_on(loaded(sensitive("plus-2511"), seen, bound=bound)) as engine:
            latents.append([engine.latents(guided), engine.latents(other)])
        looks.append(len(seen))
        seen.clear()
    assert looks == [4, 2]
    for theirs, ours in zip(*latents, strict=True):
        assert np.array_equal(theirs, ours)


def test_pictures_of_the_same_shape_are_told_apart_by_their_pixels(
    sensitive: Callable[[str], Path], seen: list[int]
) -> None:
    visual = loaded(sensitive("plus"), seen, bound=True).text_encoder.model.visual
    grid = torch.tensor([[1, 4, 8]])
    width = visual.config.in_channels * visual.config.temporal_patch_size * visual.config.patch_size**2
    one, other = torch.randn(2, 32, width, generator=torch.Generator().manual_seed(1))
    made = [visual(patches, grid_thw=grid).pooler_output for patches in (one, other, other, one)]
    assert torch.equal(made[0], made[3])
    assert torch.equal(made[1], made[2])
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[0], visual(one, grid_thw=torch.tensor([[1, 8, 4]])).pooler_output)
    assert len(seen) == 4
