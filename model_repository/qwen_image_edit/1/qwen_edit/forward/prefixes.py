"""Qwen-Image-2.1's forward: text and references are a prefix, encoded once; steps run over the outputs of all rows.

Prefix tokens are modulated at time 0 and see only what comes before them, or their own picture: their keys and values
depend neither on the step nor on the output. Written over diffusers' modules like ragged.py, and bound like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from qwen_edit.forward.adapting import Adapting, adapted, one_by_one, together
from qwen_edit.forward.block import FLOAT16_MAX, Paths
from qwen_edit.forward.places import in_real_numbers, times
from qwen_edit.forward.reference21 import SLOT_TOKENS, ByDiffusers, Text
from qwen_edit.forward.rotary import rotated
from qwen_edit.pipeline import Loras, Row, Shape, dense_attention

KEPT_ANGLES = 64  # of outputs; a company's are the same in each of its steps

Attend = Callable[..., torch.Tensor]  # queries, keys, values → what they see
Moved = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # tokens after a block; their keys and values in it


class Segment(NamedTuple):
    """Consecutive tokens of a prefix: of text, each of which sees what is before it, or of one picture."""

    start: int
    stop: int
    is_text: bool


def bind(transformer: Any, paths: Paths | None = None) -> None:
    """Call it once, before anything puts hooks on the transformer."""
    for block in transformer.transformer_blocks:
        block.forward = BlockForward(block)
    transformer.forward = PrefixedForward(transformer, paths or Paths())


class PrefixedForward:
    """The `forward` of the transformer: for rows, or for a prefix, where it is given these, else diffusers' own."""

    def __init__(self, transformer: Any, paths: Paths) -> None:
        self._transformer = transformer
        self._diffusers = transformer.forward
        self._alone = ByDiffusers(transformer, transformer.forward)
        self._paths = paths
        self._output_angles = lru_cache(KEPT_ANGLES)(self._angles_of_output)

    def __call__(
        self,
        *given: Any,
        rows: Sequence[Row] | None = None,
        prefix: tuple[Text, Sequence[torch.Tensor], Sequence[Shape]] | None = None,
        loras: Loras = (),
        **named: Any,
    ) -> Any:
        """`loras`: of a prefix."""
        if prefix is not None:
            with adapted(loras):
                return self._prefix(*prefix) if self._paths.together else self._alone.prefix(*prefix)
        if rows is None:
            return self._diffusers(*given, **named)
        if self._paths.together:
            return together(self._velocities, rows)
        return one_by_one(self._alone.velocity, rows)

    def _velocities(self, rows: Sequence[Row], adapting: Adapting) -> list[torch.Tensor]:
        """Of each row's output, (tokens, channels); a row's `text` is its prefix."""
        transformer = self._transformer
        counts = [len(row.tokens) for row in rows]
        adapting.over([1] * len(rows))
        embedded = self._embedded([row.time for row in rows], rows[0].tokens)
        modulations = transformer.modulation(embedded)
        adapting.over(counts)
        tokens = transformer.img_in(torch.cat([row.tokens for row in rows]))
        of_token = times(range(len(rows)), counts).to(tokens.device)
        ends = [position_after(row.text, row.shapes[1:]) for row in rows]
        angles = torch.cat(
            [self._output_angles(row.shapes[0], end, tokens.device) for row, end in zip(rows, ends, strict=True)]
        )

        def attend(layer: int, attention: Any) -> Attend:
            def of_row(row: Row, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
                before_keys, before_values = row.text[layer]
                return dense_attention(
                    attention, queries, torch.cat([before_keys, keys]), torch.cat([before_values, values])
                )

            def of_rows(*states: torch.Tensor) -> torch.Tensor:
                parts = zip(*(each.split_with_sizes(counts) for each in states), strict=True)
                return torch.cat([of_row(row, *part) for row, part in zip(rows, parts, strict=True)])

            return of_rows

        for layer, block in enumerate(transformer.transformer_blocks):
            tokens, _, _ = block(tokens, modulations, of_token, angles, attend=attend(layer, block.attn))
        finished = []
        for row, of_row, time in zip(rows, tokens.split_with_sizes(counts), embedded, strict=True):
            adapting.whole(row.loras)
            finished.append(transformer.norm_out(of_row[None], time[None])[0])
        adapting.over(counts)
        return list(transformer.proj_out(torch.cat(finished)).split_with_sizes(counts))

    def _prefix(self, text: Text, latents: Sequence[torch.Tensor], shapes: Sequence[Shape]) -> torch.Tensor:
        """(layers, [keys, values], tokens, heads, width of a head) of one prompt with its pictures."""
        transformer = self._transformer
        states = transformer.txt_in(text.states)
        slots = torch.tensor(text.is_picture, device=states.device)
        repeats = torch.where(slots, SLOT_TOKENS, 1)
        is_picture = torch.repeat_interleave(slots, repeats)
        tokens = states.repeat_interleave(repeats, dim=0)
        if latents:
            tokens[is_picture] = transformer.img_in(torch.cat(list(latents)))
        modulations = transformer.modulation(self._embedded([0.0], tokens))
        angles = in_real_numbers([transformer.pos_embed(list(shapes), is_picture, device=tokens.device)])
        of_token = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        segments = segments_of(text.is_picture, shapes)

        def attend(attention: Any) -> Attend:
            def of_segments(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
                return torch.cat([_seen(attention, segment, queries, keys, values) for segment in segments])

            return of_segments

        config = transformer.config
        shape = (config.num_attention_heads, config.attention_head_dim)
        # Written layer by layer: stacked in the end, tens of gigabytes would be there twice.
        kept: torch.Tensor = tokens.new_empty(len(transformer.transformer_blocks), 2, len(tokens), *shape)
        for block, (its_keys, its_values) in zip(transformer.transformer_blocks, kept, strict=True):
            tokens, keys, values = block(tokens, modulations, of_token, angles, attend=attend(block.attn))
            its_keys.copy_(keys)
            its_values.copy_(values)
        return kept

    def _embedded(self, values: Sequence[float], tokens: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self._transformer.time_text_embed(
            torch.tensor(values).to(tokens, non_blocking=True), tokens
        )
        return embedded

    def _angles_of_output(self, shape: Shape, position: int, device: torch.device) -> torch.Tensor:
        """(tokens, pairs, 2) of an output after a prefix that ends at `position`."""
        tokens = prod(shape)
        is_picture = torch.arange(position + tokens, device=device) >= position
        angles: torch.Tensor = self._transformer.pos_embed([shape], is_picture, device=device)
        return in_real_numbers([angles[position:]])


class BlockForward:
    """The `forward` of a block: where it is told how to attend, else diffusers' own."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self._diffusers = block.forward
        self._head = block.attn.inner_dim // block.attn.heads

    def __call__(self, *given: Any, attend: Attend | None = None, **named: Any) -> Any:
        return self._diffusers(*given, **named) if attend is None else self._moved(attend, *given)

    def _moved(
        self,
        attend: Attend,
        tokens: torch.Tensor,
        modulations: torch.Tensor,
        of_token: torch.Tensor,
        angles: torch.Tensor,
    ) -> Moved:
        """(tokens, width), (times, 4 width), (tokens,) which time modulates each, (tokens, pairs, 2)."""
        block, attention = self._block, self._block.attn
        scale, gate, mlp_scale, mlp_gate = (part.index_select(0, of_token) for part in modulations.chunk(4, dim=-1))
        modulated = block.img_norm1(tokens) * (1 + scale)
        queries, keys, values = (
            layer(modulated).unflatten(-1, (-1, self._head))
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        queries, keys = (
            rotated(norm(states).to(values.dtype), angles)
            for norm, states in ((attention.norm_q, queries), (attention.norm_k, keys))
        )
        seen = attend(queries, keys, values).flatten(1).type_as(queries)
        tokens = tokens + gate.tanh() * attention.to_out[0](seen)
        tokens = tokens + mlp_gate.tanh() * block.img_mlp(block.img_norm2(tokens) * (1 + mlp_scale))
        if tokens.dtype == torch.float16:
            tokens = tokens.clip(-FLOAT16_MAX, FLOAT16_MAX)
        return tokens, keys, values


def position_after(prefix: torch.Tensor, shapes: Sequence[Shape]) -> int:
    """Where an output begins on the first rotary axis: text counts its tokens, a picture its longer side."""
    text_tokens = prefix.shape[2] - sum(map(prod, shapes))
    return text_tokens + sum(max(height, width) for _, height, width in shapes)


def segments_of(is_picture: Sequence[bool], shapes: Sequence[Shape]) -> list[Segment]:
    """Of a prefix whose pictures have these shapes: by these and not by runs, as two pictures may touch."""
    segments: list[Segment] = []
    pictures = iter(shapes)
    place = token = 0
    while token < len(is_picture):
        if is_picture[token]:
            size = prod(next(pictures))
            token += size // SLOT_TOKENS
        else:
            size = 1
            while token + size < len(is_picture) and not is_picture[token + size]:
                size += 1
            token += size
        segments.append(Segment(place, place + size, not is_picture[token - 1]))
        place += size
    return segments


def _seen(
    attention: Any, segment: Segment, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    start, stop, is_text = segment
    if not is_text:
        return dense_attention(attention, queries[start:stop], keys[:stop], values[:stop])
    before = torch.ones(stop - start, stop, dtype=torch.bool, device=queries.device).tril(start)
    of_text, up_to, values_up_to = (
        states.transpose(0, 1)[None] for states in (queries[start:stop], keys[:stop], values[:stop])
    )
    return scaled_dot_product_attention(of_text, up_to, values_up_to, attn_mask=before)[0].transpose(0, 1)
