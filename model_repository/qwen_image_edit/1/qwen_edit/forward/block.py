"""The transformer's double-stream block, for rows that lie end to end.

What is done with each token for itself makes two halves, one before attention and one after it; either serves both of
a block's streams, the pictures' and the text's, and can be compiled: neither knows of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from qwen_edit.forward.adapting import Adapting
from qwen_edit.forward.attention import Varlen, attended, joined
from qwen_edit.forward.modulations import Modulations, Times
from qwen_edit.forward.places import Places
from qwen_edit.forward.rotary import rotated

FLOAT16_MAX = 65504.0

Products = tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]  # layers that make queries, keys and values
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys, values: (tokens, heads, width of a head)


class Stream(NamedTuple):
    """The modules of one stream. They are only ever called: what a hook or an adapter does to one then happens."""

    norm: torch.nn.Module
    products: Products  # queries, keys, values
    joint: torch.nn.Module | None  # all three in one, where there is one
    norm_queries: torch.nn.Module
    norm_keys: torch.nn.Module
    output: torch.nn.Module
    norm_before_mlp: torch.nn.Module
    mlp: torch.nn.Module
    head: int  # its width


def image_stream(block: Any, joint: Mapping[Products, torch.nn.Module]) -> Stream:
    attn = block.attn
    products = products_of_image(attn)
    return Stream(
        block.img_norm1, products, joint.get(products), attn.norm_q, attn.norm_k, attn.to_out[0], block.img_norm2,
        block.img_mlp, attn.inner_dim // attn.heads,
    )  # fmt: skip


def text_stream(block: Any, joint: Mapping[Products, torch.nn.Module]) -> Stream:
    attn = block.attn
    products = products_of_text(attn)
    return Stream(
        block.txt_norm1, products, joint.get(products), attn.norm_added_q, attn.norm_added_k, attn.to_add_out,
        block.txt_norm2, block.txt_mlp, attn.inner_dim // attn.heads,
    )  # fmt: skip


def products_of_image(attn: Any) -> Products:
    return attn.to_q, attn.to_k, attn.to_v


def products_of_text(attn: Any) -> Products:
    return attn.add_q_proj, attn.add_k_proj, attn.add_v_proj


def before_attention(
    stream: Stream, tokens: torch.Tensor, modulations: torch.Tensor, times: torch.Tensor, angles: torch.Tensor
) -> Heads:
    """`tokens` (tokens, width), `modulations` (times, 6 width), `times` (tokens,), `angles` (tokens, pairs, 2)"""
    shift, scale, *_ = modulations.chunk(6, dim=-1)
    modulated = _modulated(stream.norm(tokens), shift, scale, times)
    if stream.joint is None:
        made = [layer(modulated) for layer in stream.products]
    else:
        made = stream.joint(modulated).chunk(3, dim=-1)
    queries, keys, values = (each.unflatten(-1, (-1, stream.head)) for each in made)
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


@dataclass
class Paths:
    """The ways that forwards take, which give the same; shared by a transformer and its blocks, and changed at load."""

    halves: Halves = Halves()
    varlen: Varlen | None = None  # None: every row's attention is a call
    joint: Mapping[Products, torch.nn.Module] = field(default_factory=dict)  # what stands for three layers, by these
    together: bool = True  # False: each row alone, by diffusers' forward


class BlockForward:
    """The `forward` of a block: for rows where their places are given, else diffusers' own.

    Its layers are looked up each time: whatever replaces one, when it is loaded or later, is what is called.
    """

    def __init__(self, block: Any, paths: Paths, *, for_outputs: bool) -> None:
        """`for_outputs`: of the last block only what it makes of the outputs' tokens is wanted."""
        self._block = block
        self._diffusers = block.forward
        self._image_modulations, self._text_modulations = Modulations(block.img_mod), Modulations(block.txt_mod)
        self._paths = paths
        self._for_outputs = for_outputs

    def __call__(self, *given: Any, places: Places | None = None, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if places is None:
            diffusers: tuple[torch.Tensor, torch.Tensor] = self._diffusers(*given, **named)
            return diffusers
        image, text, times, adapting = given
        return self._moved(image, text, times, adapting, places)

    def _moved(
        self, image: torch.Tensor, text: torch.Tensor, times: Times, adapting: Adapting, places: Places
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of all rows, pictures' (or the outputs' of these) and text, after this block."""
        # What is compiled knows no adapters, and of three layers that one stands for each has its own.
        block, plain = self._block, bool(adapting)
        joint, halves = ({}, Halves()) if plain else (self._paths.joint, self._paths.halves)
        of_image, of_text = image_stream(block, joint), text_stream(block, joint)
        image_modulations = self._image_modulations.of(times, adapting)
        text_modulations = self._text_modulations.of(times, adapting)
        adapting.over(places.image_tokens)
        image_heads = halves.before(of_image, image, image_modulations, places.image_times, places.image_angles)
        adapting.over(places.text_tokens)
        text_heads = halves.before(of_text, text, text_modulations, places.text_times, places.text_angles)
        keys, values = (_rows(*each, places) for each in zip(image_heads[1:], text_heads[1:], strict=True))
        if self._for_outputs:
            queries, image, image_times = (
                outputs(each, places) for each in (image_heads[0], image, places.image_times)
            )
            heads = attended(block.attn, queries, keys, values, places.output_runs, self._paths.varlen)
            adapting.over(places.output_tokens)
            return halves.after(of_image, image, heads.flatten(1), image_modulations, image_times), text
        queries = _rows(image_heads[0], text_heads[0], places)
        heads = attended(block.attn, queries, keys, values, places.runs, self._paths.varlen)
        seen_by_image, seen_by_text = _streams(heads.flatten(1), places)
        adapting.over(places.image_tokens)
        image = halves.after(of_image, image, seen_by_image, image_modulations, places.image_times)
        adapting.over(places.text_tokens)
        return image, halves.after(of_text, text, seen_by_text, text_modulations, places.text_times)


def outputs(image: torch.Tensor, places: Places) -> torch.Tensor:
    """Of the tokens of all rows' pictures those of the outputs, which come first in each row."""
    rows = image.split_with_sizes(places.image_tokens)
    return joined([row[:tokens] for row, tokens in zip(rows, places.output_tokens, strict=True)])


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
