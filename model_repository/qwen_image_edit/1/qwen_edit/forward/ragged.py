"""The transformer's forward for rows of any shape: their tokens lie end to end, nothing is padded, no mask exists.

Written over diffusers' modules, whose weights, hooks and adapters stay theirs. Bound in the place of the modules' own
`forward`, it is what hooks wrap; called as diffusers calls it, it is diffusers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qwen_edit.forward.attention import Varlen
from qwen_edit.forward.block import BlockForward, Halves
from qwen_edit.forward.modulations import Times
from qwen_edit.forward.places import PlacesOfCompanies
from qwen_edit.pipeline import Row, Shape


def bind(transformer: Any, halves: Halves | None = None, varlen: Varlen | None = None) -> None:
    """Call it once, before anything puts hooks on the transformer; without `varlen` every row's attention is a call."""
    for block in transformer.transformer_blocks:
        block.forward = BlockForward(block, halves or Halves(), varlen)
    transformer.forward = RaggedForward(transformer, varlen=varlen is not None)


class RaggedForward:
    """The `forward` of the transformer: for rows where it is given some, else diffusers' own."""

    def __init__(self, transformer: Any, *, varlen: bool) -> None:
        self._transformer = transformer
        self._diffusers = transformer.forward
        self._places = PlacesOfCompanies(self._angles, references_at_zero=transformer.config.zero_cond_t, varlen=varlen)

    def __call__(self, *given: Any, rows: Sequence[Row] | None = None, **named: Any) -> Any:
        return self._diffusers(*given, **named) if rows is None else self._velocities(rows)

    def _velocities(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Of each row's output, (tokens, channels)."""
        transformer, places = self._transformer, self._places.of(rows)
        image = transformer.img_in(torch.cat([row.tokens for row in rows]))
        text = transformer.txt_in(transformer.txt_norm(torch.cat([row.text for row in rows])))
        values = (*(row.time for row in rows), 0.0)
        embedded = transformer.time_text_embed(torch.tensor(values).to(image, non_blocking=True), image)
        for block in transformer.transformer_blocks:
            image, text = block(image, text, Times(values, embedded), places=places)
        outputs = torch.cat(
            [
                transformer.norm_out(of_row[None, :tokens], time[None])[0]
                for of_row, tokens, time in zip(
                    image.split_with_sizes(places.image_tokens), places.output_tokens, embedded[:-1], strict=True
                )
            ]
        )
        return list(transformer.proj_out(outputs).split_with_sizes(places.output_tokens))

    def _angles(
        self, shapes: Sequence[Shape], text_tokens: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        angles: tuple[torch.Tensor, torch.Tensor] = self._transformer.pos_embed(
            [list(shapes)], max_txt_seq_len=text_tokens, device=device
        )
        return angles
