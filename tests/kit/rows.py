"""Rows of the transformer, made up; and what diffusers' own forward makes of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from qwen_edit.forward import ragged
from qwen_edit.pipeline import Row

from tests.kit.engines import difference


def random_row(
    transformer: Any, shapes: Sequence[tuple[int, int]], *, text_tokens: int, time: float = 0.5, seed: int = 0
) -> Row:
    """`shapes`: (height, width) in tokens of the output and of each reference."""
    config, generator = transformer.config, torch.Generator().manual_seed(seed)
    pictures = tuple((1, height, width) for height, width in shapes)
    return Row(
        torch.randn(sum(map(prod, pictures)), config.in_channels, generator=generator),
        pictures,
        torch.randn(text_tokens, config.joint_attention_dim, generator=generator),
        time,
    )


Drawn = tuple[list[tuple[int, int]], int, float]  # sides of the output and of the references, text tokens, time


def made_up(transformer: Any, crowd: Sequence[Drawn]) -> list[Row]:
    return [
        random_row(transformer, sides, text_tokens=text_tokens, time=time, seed=number)
        for number, (sides, text_tokens, time) in enumerate(crowd)
    ]


def four_rows(transformer: Any) -> list[Row]:
    """Other sizes, numbers and shapes of references, texts and times."""
    return made_up(transformer, [
        ([(8, 8), (6, 10)], 9, 0.9), ([(6, 10), (8, 8), (4, 7)], 33, 0.5),
        ([(8, 4)], 17, 0.3), ([(5, 9), (9, 5)], 21, 0.1),
    ])  # fmt: skip


@torch.inference_mode()
def largest_difference(transformer: Any, rows: Sequence[Row]) -> float:
    """Of the rows in one forward of ours from each alone, over the standard deviation of the latter."""
    ours = transformer(rows=rows)
    return max(difference(our, ragged.alone(transformer, row)) for our, row in zip(ours, rows, strict=True))
