"""diffusers' own forward of Qwen-Image-2.1, of one row: what ours is held against, and served where ours is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21KVCache

from qwen_edit.pipeline import Row, Shape

SLOT_TOKENS = 4  # of a picture, that one token of the text encoder stands for
SMALLEST: Shape = (1, 2, 2)  # an output, beside which a prefix is what it is beside any


class Text(NamedTuple):
    """What the text encoder made of a prompt and its pictures."""

    states: torch.Tensor  # (tokens, context_in_dim)
    is_picture: tuple[bool, ...]  # of each token


class ByDiffusers:
    """`forward` is the transformer's as diffusers calls it, with its hooks or without.

    Shapes are those of the output, where there is one, and then of each reference; latents (tokens, channels) each.
    """

    def __init__(self, transformer: Any, forward: Callable[..., Any]) -> None:
        self._transformer = transformer
        self._forward = forward

    def whole(
        self, text: Text, latents: Sequence[torch.Tensor], output: torch.Tensor, shapes: Sequence[Shape], time: float,
        **cache: Any,
    ) -> torch.Tensor:  # fmt: skip
        """The velocity of `output`, (tokens, channels), in one sequence with its text and references."""
        slots = (*text.is_picture, *[True] * (len(output) // SLOT_TOKENS))
        device = output.device
        velocity: torch.Tensor = self._forward(
            hidden_states=torch.cat([*latents, output])[None], encoder_hidden_states=text.states[None],
            timestep=torch.tensor([time], device=device), img_shapes=[[*shapes[1:], shapes[0]]],
            img_mask=torch.tensor([slots], device=device), return_dict=False, **cache,
        )[0]  # fmt: skip
        return velocity[0, -len(output) :]

    def prefix(self, text: Text, latents: Sequence[torch.Tensor], shapes: Sequence[Shape]) -> torch.Tensor:
        """(layers, [keys, values], tokens, heads, width of a head), as diffusers keeps them after its first step."""
        cache = QwenImage21KVCache(len(self._transformer.transformer_blocks))
        output = text.states.new_zeros(prod(SMALLEST), self._transformer.config.in_channels)
        self.whole(text, latents, output, [SMALLEST, *shapes], 0.0, kv_cache=cache, kv_cache_mode="extract")
        return torch.stack([torch.cat(layer.get()) for layer in cache.layer_caches])

    def velocity(self, row: Row) -> torch.Tensor:
        """Of an output whose prefix is `row.text`: what it is made of plays no part any more, only how long it is."""
        cache = QwenImage21KVCache(len(row.text))
        for layer, (keys, values) in zip(cache.layer_caches, row.text, strict=True):
            layer.store(keys[None], values[None])
        pictures = sum(map(prod, row.shapes[1:]))
        is_picture = (*[False] * (row.text.shape[2] - pictures), *[True] * (pictures // SLOT_TOKENS))
        states = row.tokens.new_zeros(len(is_picture), self._transformer.config.context_in_dim)
        latents = row.tokens.new_zeros(pictures, row.tokens.shape[1])
        cached = {"kv_cache": cache, "kv_cache_mode": "cached"}
        return self.whole(Text(states, is_picture), [latents], row.tokens, row.shapes, row.time, **cached)
