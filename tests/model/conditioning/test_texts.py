"""How long a text may be beside its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from qwen_edit.conditioning.texts import Prompts
from qwen_edit.errors import BadRequest
from qwen_edit.families.sizes import Geometry
from qwen_edit.pipeline import Pipeline

from tests.kit.engines import load_pipeline


@pytest.mark.parametrize(("token_pixels", "positions"), [(8, 4080), (16, 4088), (32, 4092)])
def test_a_picture_takes_positions_from_the_text_by_half_its_longest_side_in_tokens(
    checkpoint: Callable[[str], Path], token_pixels: int, positions: int
) -> None:
    prompts = Prompts(Pipeline(load_pipeline(checkpoint("plus"))))
    geometry = Geometry(answer=(256, 64), output=(256, 64), references=(), conditions=(), token_pixels=token_pixels)
    with pytest.raises(BadRequest, match=f"prompt: .* at most {positions} are allowed"):
        prompts.prompt("x y " * 6000, [], geometry, "prompt")
