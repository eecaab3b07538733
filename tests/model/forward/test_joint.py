"""Queries, keys and values in one product: of plain layers alone, and without more memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import joint, ragged
from qwen_edit.forward.block import Paths, products_of_image

from tests.kit.engines import load_pipeline
from tests.kit.rows import four_rows, largest_difference

BOUND = 1e-4


@pytest.fixture
def transformer(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("plus-2511")).transformer


def test_the_joint_layer_is_called_for_the_three_and_gives_what_they_give(transformer: Any) -> None:
    paths = Paths()
    ragged.bind(transformer, paths)
    paths.joint = joint.joined(transformer)
    blocks = len(transformer.transformer_blocks)
    assert len(paths.joint) == 2 * blocks
    called: list[int] = []
    for layer in paths.joint.values():
        layer.register_forward_hook(lambda *_: called.append(1))
    rows = four_rows(transformer)
    with torch.inference_mode():
        transformer(rows=rows)
    assert len(called) == 2 * blocks
    assert largest_difference(transformer, rows) <= BOUND, "diffusers calls the three"


def test_the_three_keep_their_weights_as_parts_of_the_joint_ones(transformer: Any) -> None:
    products = products_of_image(transformer.transformer_blocks[0].attn)
    layers: Any = products
    before = [layer.weight.clone() for layer in layers]
    made: Any = joint.joined(transformer)[products]
    for layer, weight in zip(layers, before, strict=True):
        assert torch.equal(layer.weight, weight)
        assert layer.weight.untyped_storage().data_ptr() == made.weight.untyped_storage().data_ptr()


def test_a_layer_that_is_hooked_or_of_another_kind_is_called_itself(transformer: Any) -> None:
    class Adapted(torch.nn.Linear):
        pass

    first, second = (block.attn for block in transformer.transformer_blocks[:2])
    first.to_k.register_forward_pre_hook(lambda *_: None)
    adapted = Adapted(second.to_v.in_features, second.to_v.out_features)
    second.to_v = adapted
    made = joint.joined(transformer)
    assert products_of_image(first) not in made
    assert products_of_image(second) not in made
    assert len(made) == 2 * len(transformer.transformer_blocks) - 2


@torch.inference_mode()
@pytest.mark.parametrize("name", ["to_q", "add_v_proj", "to_add_out"])
def test_a_layer_that_is_replaced_after_binding_is_the_one_called(transformer: Any, name: str) -> None:
    """As 4-bit weights replace them, and adapters that come later."""
    paths = Paths()
    ragged.bind(transformer, paths)
    paths.joint = joint.joined(transformer)
    attn = transformer.transformer_blocks[0].attn
    old = getattr(attn, name)
    new = torch.nn.Linear(old.in_features, old.out_features)
    setattr(attn, name, new)
    called: list[int] = []
    new.register_forward_hook(lambda *_: called.append(1))
    assert largest_difference(transformer, four_rows(transformer)) <= BOUND
    assert len(called) == 1 + len(four_rows(transformer)), "once for all rows, and once a row by diffusers"
