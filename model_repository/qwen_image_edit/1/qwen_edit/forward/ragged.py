"""The transformer's forward for rows of any shape: their tokens lie end to end, nothing is padded, no mask exists.

Written over diffusers' modules, whose weights, hooks and adapters stay theirs. Bound in the place of the modules' own
`forward`, it is what hooks wrap; called as diffusers calls it, it is diffusers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch

from qwen_edit.forward.adapting import Adapting, one_by_one, together
from qwen_edit.forward.block import BlockForward, Halves, Paths
from qwen_edit.forward.modulations import Times
from qwen_edit.forward.places import PlacesOfCompanies
from qwen_edit.pipeline import Row, Shape


def bind(transformer: Any, paths: Paths | None = None) -> None:
    """Call it once, before anything puts hooks on the transformer."""
    paths = paths or Paths()
    last = len(transformer.transformer_blocks) - 1
    for number, block in enumerate(transformer.transformer_blocks):
        block.forward = BlockForward(block, paths, for_outputs=number == last)
    transformer.forward = RaggedForward(transformer, paths)


class RaggedForward:
    """The `forward` of the transformer: for rows where it is given some, else diffusers' own."""

    def __init__(self, transformer: Any, paths: Paths) -> None:
        self._transformer = transformer
        self._diffusers = transformer.forward
        self._paths = paths
        self._places = PlacesOfCompanies(self._angles, references_at_zero=transformer.config.zero_cond_t)

    def __call__(self, *given: Any, rows: Sequence[Row] | None = None, **named: Any) -> Any:
        if rows is None:
            return self._diffusers(*given, **named)
        if self._paths.together:
            return self._in_forwards(rows)
        return one_by_one(partial(alone, self._diffusers), rows)

    def _in_forwards(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """One; two where rows with adapters, which go past what is compiled, would have the others do so too."""
        if self._paths.halves == Halves():
            return together(self._velocities, rows)
        made: dict[int, torch.Tensor] = {}
        for adapted in (False, True):
            numbers = [number for number, row in enumerate(rows) if bool(row.loras) is adapted]
            if numbers:
                velocities = together(self._velocities, [rows[number] for number in numbers])
                made.update(zip(numbers, velocities, strict=True))
        return [made[number] for number in range(len(rows))]

    def _velocities(self, rows: Sequence[Row], adapting: Adapting) -> list[torch.Tensor]:
        """Of each row's output, (tokens, channels)."""
        transformer, zeros = self._transformer, adapting.zeros
        places = self._places.of(rows, adapting.zero_of_row, varlen=self._paths.varlen is not None)
        adapting.over(places.image_tokens)
        image = transformer.img_in(torch.cat([row.tokens for row in rows]))
        adapting.over(places.text_tokens)
        text = transformer.txt_in(transformer.txt_norm(torch.cat([row.text for row in rows])))
        values = (*(row.time for row in rows), *(0.0 for _ in zeros))
        loras = (*adapting.on_times, *zeros)
        adapting.over([1] * len(values), loras)
        times = torch.tensor(values).to(image, non_blocking=True)
        embedded = transformer.time_text_embed(times, image, condition_of_time(len(values), image.device))
        for block in transformer.transformer_blocks:
            image, text = block(image, text, Times(values, loras, embedded), adapting, places=places)
        # The last block leaves the outputs alone.
        finished = []
        for row, of_row, time in zip(rows, image.split_with_sizes(places.output_tokens), embedded, strict=False):
            adapting.whole(row.loras)
            finished.append(transformer.norm_out(of_row[None], time[None])[0])
        adapting.over(places.output_tokens)
        return list(transformer.proj_out(torch.cat(finished)).split_with_sizes(places.output_tokens))

    def _angles(
        self, shapes: Sequence[Shape], text_tokens: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        angles: tuple[torch.Tensor, torch.Tensor] = self._transformer.pos_embed(
            [frame_by_frame(shapes)], max_txt_seq_len=text_tokens, device=device
        )
        return angles


def alone(diffusers: Callable[..., Any], row: Row) -> torch.Tensor:
    """What diffusers' forward makes of one row: of its output, (tokens, channels)."""
    device = row.tokens.device
    velocity: torch.Tensor = diffusers(
        hidden_states=row.tokens[None], encoder_hidden_states=row.text[None], img_shapes=[frame_by_frame(row.shapes)],
        timestep=torch.tensor([row.time], device=device), additional_t_cond=condition_of_time(1, device),
        return_dict=False,
    )[0]  # fmt: skip
    return velocity[0, : prod(row.shapes[0])]


def frame_by_frame(shapes: Sequence[Shape]) -> list[Shape]:
    """As the rotary positions count them: each frame, and each reference, one further."""
    return [(1, height, width) for frames, height, width in shapes for _ in range(frames)]


def condition_of_time(times: int, device: torch.device) -> torch.Tensor:
    """(times,): what a checkpoint of layers was trained with beside time for pictures with alpha; others ignore it."""
    return torch.zeros(times, dtype=torch.long, device=device)
