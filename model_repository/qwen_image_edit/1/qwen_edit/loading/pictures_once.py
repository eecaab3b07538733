"""The text encoder sees the pictures of an edit once, not once for each of its texts."""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling


def bind(text_encoder: Any) -> None:
    """Of a Qwen2_5_VLModel; call it once, before anything puts hooks on it. For one thread at a time."""
    text_encoder.visual.forward = PicturesOnce(text_encoder.visual)


class PicturesOnce:
    """The `forward` of the vision tower: of the pictures it was given last it still knows what it made of them."""

    def __init__(self, visual: Any) -> None:
        self._transformers = visual.forward
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None  # patches, and the grid that they lie in
        self._made: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, patches: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> BaseModelOutputWithPooling:
        if self._made is None or not self._saw(patches, grid_thw):
            made = self._transformers(patches, grid_thw=grid_thw, **options)
            self._seen = patches, grid_thw
            self._made = made.last_hidden_state, made.pooler_output
        # A new one each time, as the caller changes it.
        last_hidden_state, pooler_output = self._made
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooler_output)

    def _saw(self, patches: torch.Tensor, grid_thw: torch.Tensor) -> bool:
        """To the last bit, so that what it answers is that too."""
        return self._seen is not None and all(map(torch.equal, (patches, grid_thw), self._seen))
