"""Where each part of the pipeline computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch


@dataclass(frozen=True)
class Devices:
    """Where inputs of each part go; its weights may be elsewhere at the moment."""

    transformer: torch.device
    text_encoder: torch.device
    vae: torch.device

    @classmethod
    def of(cls, pipeline: Any) -> Self:
        """Of a pipeline whose parts lie where they compute."""
        return cls(pipeline.transformer.device, pipeline.text_encoder.device, pipeline.vae.device)

    @classmethod
    def all(cls, device: torch.device) -> Self:
        """A GPU without a number is the first: a thread cannot choose one that has none."""
        numbered = torch.device("cuda", 0) if device == torch.device("cuda") else device
        return cls(numbered, numbered, numbered)
