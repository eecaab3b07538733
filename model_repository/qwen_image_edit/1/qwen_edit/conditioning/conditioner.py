"""What the transformer is conditioned on: text embeddings and reference latents, from the cache or computed.

Each is encoded alone and when it is first needed: encodings of a batch are not bit-equal to those of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from qwen_edit.conditioning.cache import TensorCache
from qwen_edit.conditioning.references import Reference
from qwen_edit.conditioning.texts import Prompt
from qwen_edit.families.family import Size
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.pipeline import Pipeline


class Conditioner:
    """`cache` keeps what it made; it may be asked for what is in there by another thread."""

    def __init__(self, pipeline: Pipeline, cache: TensorCache, *, mrope: bool) -> None:
        self._pipeline = pipeline
        self._mrope = mrope
        self.cache = cache

    def text_embeddings(self, prompt: Prompt, references: Sequence[Reference]) -> torch.Tensor:
        """(tokens, joint_attention_dim), in the text encoder's dtype, on the transformer's device; or a prefix."""
        return self.cache.get(prompt.key, lambda: self._embed(prompt, references))

    def latents(self, reference: Reference, size: Size) -> torch.Tensor:
        """Packed VAE latents (tokens, channels) of the picture at `size`, on the transformer's device."""
        key = _latents_key(reference, size)
        return self.cache.get(key, lambda: self._pipeline.encode_picture(reference.at(size)))

    def is_cached(self, prompts: Iterable[Prompt], latents: Iterable[tuple[Reference, Size]]) -> bool:
        """Whether all of these are encoded, a moment ago: another thread may be dropping them."""
        keys = [*(prompt.key for prompt in prompts), *(_latents_key(*wanted) for wanted in latents)]
        return all(key in self.cache for key in keys)

    def _embed(self, prompt: Prompt, references: Sequence[Reference]) -> torch.Tensor:
        pictures = [reference.at(size) for reference, size in zip(references, prompt.sizes, strict=True)]
        if isinstance(self._pipeline, Pipeline21):
            latents = [self.latents(reference, size) for reference, size in zip(references, prompt.sizes, strict=True)]
            return self._pipeline.prefix(prompt.text, pictures, latents)
        return self._pipeline.embed(prompt.text, pictures, mrope=self._mrope)


def _latents_key(reference: Reference, size: Size) -> tuple[object, ...]:
    return ("latents", reference.digest, size)
