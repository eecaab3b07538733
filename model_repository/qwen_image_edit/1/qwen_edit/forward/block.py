"""The transformer's double-stream block, for rows that lie end to end.

What is done with each token for itself makes two halves, one before attention and one after it; either serves both of
a block's streams, the pictures' and the text's, and can be compiled: neither knows of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from qwen_edit.forward.attention import Varlen, attended, joined
from qwen_edit.forward.modulations import Modulations, Times
from qwen_edit.forward.places import Places
from qwen_edit.forward.rotary import rotated

FLOAT16_MAX = 65504.0

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys, values: (tokens, heads, width of a head)


class Stream(NamedTuple):
    """The modules of one stream. They are only ever called: what a hook or an adapter does to one then happens."""

    norm: torch.nn.Module
    queries: torch.nn.Module
    keys: torch.nn.Module
    values: torch.nn.Module
    norm_queries: torch.nn.Module
    norm_keys: torch.nn.Module
    output: torch.nn.Module
    norm_before_mlp: torch.nn.Module
    mlp: torch.nn.Module
    head: int  # its width


def image_stream(block: Any) -> Stream:
    attn = block.attn
    return Stream(
        block.img_norm1, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, attn.to_out[0], block.img_norm2,
        block.img_mlp, attn.inner_dim // attn.heads,
    )  # fmt: skip


def text_stream(block: Any) -> Stream:
    attn = block.attn
    return Stream(
        block.txt_norm1, attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k,
        attn.to_add_out, block.txt_norm2, block.txt_mlp, attn.inner_dim // attn.heads,
    )  # fmt: skip


def before_attention(
    stream: Stream, tokens: torch.Tensor, modulations: torch.Tensor, times: torch.Tensor, angles: torch.Tensor
) -> Heads:
    """`tokens` (tokens, width), `modulations` (times, 6 width), `times` (tokens,), `angles` (tokens, pairs, 2)"""
    shift, scale, *_ = modulations.chunk(6, dim=-1)
    modulated = _modulated(stream.norm(tokens), shift, scale, times)
    queries, keys, values = (
        layer(modulated).unflatten(-1, (-1, stream.head)) for layer in (stream.queries, stream.keys, stream.values)
    )
    return rotated(stream.norm_queries(queries), angles), rotated(stream.norm_keys(keys), angles), values


def after_attention(
    stream: Stream, tokens: torch.Tensor, heads: torch.Tensor, modulations: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """What the block makes of `tokens`, of which attention made `heads`, both (tokens, width)."""
    *_, gate, shift, scale, mlp_gate = modulations.chunk(6, dim=-1)
    tokens = torch.addcmul(tokens, gate.index_select(0, times), stream.output(heads))
    modulated = _modulated(stream.norm_before_mlp(tokens), shift, scale, times)
    tokens = torch.addcmul(tokens, mlp_gate.index_select(0, times), stream.mlp(modulated))
    return tokens.clip(-FLOAT16_MAX, FLOAT16_MAX) if tokens.dtype == torch.float16 else tokens


def _modulated(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift.index_select(0, times), tokens, (1 + scale).index_select(0, times))


@dataclass(frozen=True)
class Halves:
    """As they are, or compiled."""

    before: Callable[[Stream, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Heads] = before_attention
    after: Callable[[Stream, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = after_attention


class BlockForward:
    """The `forward` of a block: for rows where their places are given, else diffusers' own."""

    def __init__(self, block: Any, halves: Halves, varlen: Varlen | None) -> None:
        self._attention = block.attn
        self._diffusers = block.forward
        self._image, self._text = image_stream(block), text_stream(block)
        self._image_modulations, self._text_modulations = Modulations(block.img_mod), Modulations(block.txt_mod)
        self._halves = halves
        self._varlen = varlen

    def __call__(self, *given: Any, places: Places | None = None, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if places is None:
            diffusers: tuple[torch.Tensor, torch.Tensor] = self._diffusers(*given, **named)
            return diffusers
        image, text, times = given
        return self._moved(image, text, times, places)

    def _moved(
        self, image: torch.Tensor, text: torch.Tensor, times: Times, places: Places
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of all rows, pictures' and text, after this block."""
        before, after = self._halves.before, self._halves.after
        image_modulations, text_modulations = self._image_modulations.of(times), self._text_modulations.of(times)
        of_image = before(self._image, image, image_modulations, places.image_times, places.image_angles)
        of_text = before(self._text, text, text_modulations, places.text_times, places.text_angles)
        queries, keys, values = (_rows(*each, places) for each in zip(of_image, of_text, strict=True))
        heads = attended(self._attention, queries, keys, values, places.runs, self._varlen).flatten(1)
        image_heads, text_heads = _streams(heads, places)
        return (
            after(self._image, image, image_heads, image_modulations, places.image_times),
            after(self._text, text, text_heads, text_modulations, places.text_times),
        )


def _rows(image: torch.Tensor, text: torch.Tensor, places: Places) -> torch.Tensor:
    """All rows end to end, each its pictures and then its text; attention does not mind the order."""
    rows = zip(image.split_with_sizes(places.image_tokens), text.split_with_sizes(places.text_tokens), strict=True)
    return torch.cat([part for row in rows for part in row])


def _streams(rows: torch.Tensor, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse. Both begin where their memory does: compiled code would not take one that does for one that doesn't.

    So a single row's text, which is short, is copied; its pictures come first and need not be.
    """
    lengths = [part for row in zip(places.image_tokens, places.text_tokens, strict=True) for part in row]
    parts = rows.split_with_sizes(lengths)
    return joined(parts[::2]), torch.cat(list(parts[1::2]))
