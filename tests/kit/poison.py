"""A checkpoint whose model fails on one word."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from transformers import AutoTokenizer

POISONED_WORD = "watercolor"


def poison(checkpoint: Path) -> None:
    """The embedding of POISONED_WORD becomes NaN."""
    (token,) = AutoTokenizer.from_pretrained(checkpoint / "tokenizer")(f" {POISONED_WORD}")["input_ids"]
    weights = checkpoint / "text_encoder" / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["model.embed_tokens.weight"][token] = torch.nan
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
