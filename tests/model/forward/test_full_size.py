"""The real architectures, without their weights: our forward runs, adapters find their layers, memory adds up."""

from __future__ import annotations

from math import prod

import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from qwen_edit.forward import joint, ragged
from qwen_edit.forward.block import Paths
from qwen_edit.loading.placement import bytes_of, parts_of
from qwen_edit.pipeline import Row

from checkpoints.random_weights import build_pipeline

META = torch.device("meta")
# As the authors of Lightning name the tensors of theirs, and as peft does.
LAYERS = (
    "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out", "attn.to_k", "attn.to_out.0",
    "attn.to_q", "attn.to_v", "img_mlp.net.0.proj", "img_mlp.net.2", "img_mod.1", "txt_mlp.net.0.proj",
    "txt_mlp.net.2", "txt_mod.1",
)  # fmt: skip


def row(shapes: list[tuple[int, int]], text_tokens: int, time: float, frames: int = 1) -> Row:
    """`frames`: of the output, which is the first picture."""
    (output, *references) = shapes
    pictures = ((frames, *output), *((1, *reference) for reference in references))
    tokens = sum(map(prod, pictures))
    return Row(
        torch.empty(tokens, 64, device=META, dtype=torch.bfloat16),
        pictures,
        torch.empty(text_tokens, 3584, device=META, dtype=torch.bfloat16),
        time,
    )


@pytest.mark.parametrize("family", ["edit", "plus-2511"])
@torch.inference_mode()
def test_rows_of_a_megapixel_go_through_the_real_architecture(family: str) -> None:
    transformer = build_pipeline(family, "full", device=META).transformer
    ragged.bind(transformer, Paths())
    rows = [
        row([(64, 64), (64, 64)], 260, 0.9),
        row([(32, 48)], 700, 0.4),
        row([(48, 84), (64, 64), (40, 100)], 900, 0.1),
    ]
    velocities = transformer(rows=rows)
    assert [tuple(each.shape) for each in velocities] == [(4096, 64), (1536, 64), (4032, 64)]
    assert {each.dtype for each in velocities} == {torch.bfloat16}


@torch.inference_mode()
def test_a_picture_taken_apart_goes_through_the_real_architecture() -> None:
    transformer = build_pipeline("layered", "full", device=META).transformer
    ragged.bind(transformer, Paths())
    rows = [row([(40, 40), (40, 40)], 512, 0.9, frames=11), row([(64, 64), (64, 64)], 40, 0.4, frames=3)]
    assert [tuple(each.shape) for each in transformer(rows=rows)] == [(11 * 1600, 64), (3 * 4096, 64)]


def test_layers_without_weights_are_not_joined_and_their_memory_is_counted() -> None:
    parts = build_pipeline("plus-2511", "full", device=META)
    assert not joint.joined(parts.transformer)
    assert sum(map(bytes_of, parts_of(parts).values())) == pytest.approx(56.7e9, rel=0.01)


@pytest.mark.parametrize("down", ["lora_down", "lora_A"])
def test_the_names_of_published_adapters_are_those_of_layers(down: str) -> None:
    """Whoever trained them took the authors' names or peft's; diffusers makes its own of both."""
    up = {"lora_down": "lora_up", "lora_A": "lora_B"}[down]
    transformer = build_pipeline("plus-2511", "full", device=META).transformer
    state = {}
    for number in range(len(transformer.transformer_blocks)):
        for name in LAYERS:
            layer = f"transformer_blocks.{number}.{name}"
            module = transformer.get_submodule(layer)
            state[f"{layer}.{down}.weight"] = torch.empty(4, module.in_features, device=META)
            state[f"{layer}.{up}.weight"] = torch.empty(module.out_features, 4, device=META)
            if down == "lora_down":
                state[f"{layer}.alpha"] = torch.tensor(4.0)
    converted = QwenImageEditPlusPipeline.lora_state_dict(state)
    layers = {name.removeprefix("transformer.").rpartition(".lora_")[0] for name in converted}
    assert len(layers) == len(transformer.transformer_blocks) * len(LAYERS)
    assert {type(transformer.get_submodule(layer)) for layer in layers} == {torch.nn.Linear}
