"""Prompt and pictures → what the transformer is conditioned on: text embeddings and reference latents.

Each is encoded alone and when it is first needed: encodings of a batch are not bit-equal to those of one.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from qwen_edit.conditioning.cache import TensorCache
from qwen_edit.devices import Devices
from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.families.sizes import Geometry
from qwen_edit.pictures import images

# Rotary positions that the transformer has a table for: the text's, after the picture's half extent.
MAX_POSITIONS = 4096


class Reference:
    """An uploaded reference image; decoded when its pixels are first needed."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self._data = data
        self._max_pixels = max_pixels
        self._decoded: Image.Image | None = None
        self._resized: dict[Size, Image.Image] = {}
        self.digest = hashlib.sha256(data).digest()

    @property
    def picture(self) -> Image.Image:
        if self._decoded is None:
            self._decoded = images.decode(self._data, "image", self._max_pixels)
        return self._decoded

    def at(self, size: Size) -> Image.Image:
        """The picture resized as the pipelines do it."""
        if size not in self._resized:
            self._resized[size] = self.picture.resize(size, Image.Resampling.LANCZOS)
        return self._resized[size]

    def keep_only(self, sizes: Iterable[Size]) -> None:
        """Drops the decoded picture, which can be fifty times as large as what is needed of it."""
        self._resized = {size: self.at(size) for size in sizes}
        self._decoded = None


@dataclass(frozen=True)
class Prompt:
    """One text with the pictures it speaks of: the condition of one row."""

    text: str  # template applied
    digests: tuple[bytes, ...]
    sizes: tuple[Size, ...]  # of the pictures as the text encoder sees them
    tokens: int  # that the transformer sees

    @property
    def key(self) -> tuple[object, ...]:
        return ("text", self.text, self.digests, self.sizes)


class Conditioner:
    """Encodes with the pipeline's own components; `cache` keeps what it made."""

    def __init__(self, pipeline: Any, cache: TensorCache, devices: Devices, *, mrope: bool) -> None:
        self._pipeline = pipeline
        self._devices = devices
        self._mrope = mrope
        self.cache = cache
        # The processor changes its tokenizer's padding, and a tokenizer in use must not be changed.
        self._tokenizer_lock = threading.Lock()
        tokens = sorted(pipeline.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._control_tokens = re.compile("|".join(map(re.escape, tokens)))
        self._pictures_in_template = "<|image_pad|>" in pipeline.prompt_template_encode

    def prompt(self, text: str, references: Sequence[Reference], geometry: Geometry, tensor: str) -> Prompt:
        """Applies the template and counts the tokens; raises BadRequest naming `tensor` where they do not fit."""
        pictures = "" if self._pictures_in_template else _picture_names(len(references))
        templated = self._pipeline.prompt_template_encode.format(pictures + self._neutral(text))
        tokens = self._count(templated, geometry.conditions)
        positions = max(max(size) for size in (geometry.output, *geometry.references)) // 32
        if tokens + positions > MAX_POSITIONS:
            raise BadRequest(
                tensor,
                f"text and pictures take {tokens} text positions: at most {MAX_POSITIONS - positions} are allowed "
                "at this output size with these references",
            )
        return Prompt(templated, tuple(r.digest for r in references), geometry.conditions, tokens)

    def text_embeddings(self, prompt: Prompt, references: Sequence[Reference]) -> torch.Tensor:
        """(tokens, joint_attention_dim), in the text encoder's dtype, on the transformer's device."""
        return self.cache.get(prompt.key, lambda: self._encode_text(prompt, references))

    def latents(self, reference: Reference, size: Size) -> torch.Tensor:
        """Packed VAE latents (tokens, channels) of the picture at `size`, on the transformer's device."""
        return self.cache.get(_latents_key(reference, size), lambda: self._encode_picture(reference, size))

    def is_cached(self, prompts: Iterable[Prompt], latents: Iterable[tuple[Reference, Size]]) -> bool:
        """Whether all of these are encoded, a moment ago: another thread may be dropping them."""
        keys = [*(prompt.key for prompt in prompts), *(_latents_key(*wanted) for wanted in latents)]
        return all(key in self.cache for key in keys)

    def _neutral(self, text: str) -> str:
        """Breaks the control tokens in users' text: they would be tokenised as control, not as text."""
        return self._control_tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def _count(self, templated: str, conditions: Sequence[Size]) -> int:
        processor = self._pipeline.processor.image_processor
        merge = processor.merge_size**2
        # The template has one token a picture, which the processor repeats.
        pictures: int = sum(
            processor.get_number_of_image_patches(height, width, {}) // merge - 1 for width, height in conditions
        )
        with self._tokenizer_lock:
            ids = self._pipeline.tokenizer(templated)["input_ids"]
        start: int = self._pipeline.prompt_template_encode_start_idx
        return len(ids) + pictures - start

    def _encode_text(self, prompt: Prompt, references: Sequence[Reference]) -> torch.Tensor:
        pipeline = self._pipeline
        pictures = [reference.at(size) for reference, size in zip(references, prompt.sizes, strict=True)]
        encoder = pipeline.text_encoder
        with self._tokenizer_lock:
            inputs = pipeline.processor(text=[prompt.text], images=pictures, padding=True, return_tensors="pt")
        inputs = inputs.to(self._devices.text_encoder)
        # diffusers 0.42.1 does not pass mm_token_type_ids, and transformers then falls back to 1-D positions in
        # silence; the checkpoints were trained with 3-D ones (M-RoPE).
        positions = {"mm_token_type_ids": inputs["mm_token_type_ids"]} if self._mrope else {}
        # The inner model leaves out the vocabulary logits and the KV cache; its last hidden state is the same.
        hidden = encoder.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            use_cache=False,
            **positions,
        ).last_hidden_state
        embeddings = hidden[0, pipeline.prompt_template_encode_start_idx :]
        return embeddings.to(self._devices.transformer).contiguous()  # type: ignore[no-any-return]

    def _encode_picture(self, reference: Reference, size: Size) -> torch.Tensor:
        pipeline = self._pipeline
        width, height = size
        pixels = pipeline.image_processor.preprocess(reference.at(size), height, width).unsqueeze(2)
        pixels = pixels.to(self._devices.vae, pipeline.vae.dtype)
        latents = pipeline._encode_vae_image(image=pixels, generator=None)  # (1, C, 1, h, w)
        channels, rows, columns = latents.shape[1], latents.shape[3], latents.shape[4]
        packed = pipeline._pack_latents(latents, 1, channels, rows, columns)
        return packed[0].to(self._devices.transformer).contiguous()  # type: ignore[no-any-return]


def _latents_key(reference: Reference, size: Size) -> tuple[object, ...]:
    return ("latents", reference.digest, size)


def _picture_names(count: int) -> str:
    """How the Plus pipeline names its pictures in front of the prompt."""
    return "".join(f"Picture {number}: <|vision_start|><|image_pad|><|vision_end|>" for number in range(1, count + 1))
