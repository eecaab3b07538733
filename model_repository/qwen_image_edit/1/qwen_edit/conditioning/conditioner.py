"""What the transformer is conditioned on: text embeddings and reference latents, from the cache or computed.

Each is encoded alone and when it is first needed: encodings of a batch are not bit-equal to those of one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch

from qwen_edit.conditioning.cache import ConditioningCache
from qwen_edit.conditioning.references import Reference
from qwen_edit.conditioning.texts import Prompt
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.forward.lora_store import LoraStore
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.forward.prefix_store import Prefix, PrefixStore
from qwen_edit.pipeline import Pipeline


class Conditioner:
    """`cache` keeps what it made."""

    def __init__(
        self, pipeline: Pipeline, cache: ConditioningCache, prefixes: PrefixStore, loras: LoraStore, *, mrope: bool
    ) -> None:
        self._pipeline = pipeline
        self._mrope = mrope
        self._prefixes = prefixes
        self._loras = loras
        self.cache = cache

    def text_embeddings(self, prompt: Prompt, references: Sequence[Reference]) -> torch.Tensor | Prefix:
        """(tokens, joint_attention_dim), in the text encoder's dtype, on the transformer's device; or a prefix."""
        states = self.cache.get(prompt.key, lambda: self._embed(prompt, references))
        pipeline = self._pipeline
        if not isinstance(pipeline, Pipeline21):
            return states
        latents = [self.latents(reference, size) for reference, size in zip(references, prompt.sizes, strict=True)]

        def make() -> torch.Tensor:
            loras = self._loras.weighed(prompt.adapters)
            return pipeline.prefix(prompt.text, states, prompt.sizes, latents, loras)

        return Prefix(prompt.prefix_key, pipeline.prefix_bytes(prompt.tokens), make, (states, *latents))

    def prefix_bytes(self, prompts: Iterable[Prompt]) -> dict[Hashable, int]:
        """Of each prefix that an edit with these prompts needs in a step."""
        if not isinstance(self._pipeline, Pipeline21):
            return {}
        return {prompt.prefix_key: self._pipeline.prefix_bytes(prompt.tokens) for prompt in prompts}

    def check_room(self, prompts: Sequence[Prompt]) -> None:
        """Raises BadRequest where their prefixes never fit, of which nobody could be helped by waiting."""
        needed, most = sum(self.prefix_bytes(prompts).values()), self._prefixes.room
        if needed > most:
            pictures = len(prompts[0].digests)
            what = f"{pictures} reference images and the text" if pictures else "the text"
            twice = ", twice with guidance" if len(prompts) > 1 else ""
            raise BadRequest(
                "image" if pictures else "prompt",
                f"{what}{twice}: {in_megabytes(needed)} of keys and values, of which at most {in_megabytes(most)} fit "
                "on this server",
            )

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
        return self._pipeline.embed(prompt.text, pictures, mrope=self._mrope)


def _latents_key(reference: Reference, size: Size) -> tuple[object, ...]:
    return ("latents", reference.digest, size)


def in_megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"
