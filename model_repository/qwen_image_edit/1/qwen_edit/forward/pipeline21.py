"""The diffusers pipeline of Qwen-Image-2.1, typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from qwen_edit.families.family import Size
from qwen_edit.forward.reference21 import Text
from qwen_edit.pipeline import Devices, Loras, Pipeline

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SLOT = "<|image_pad|>"


class Pipeline21(Pipeline):
    packed = 1
    slot_tokens = 4

    def __init__(self, parts: Any, devices: Devices | None = None) -> None:
        super().__init__(parts, devices)
        self._slot: int = parts.processor.tokenizer.convert_tokens_to_ids(SLOT)

    def templated(self, text: str, pictures: int) -> str:
        if not pictures:
            without: str = self.parts.prompt_template_t2i
            return without.format(text)
        named = " ".join(f"<image{number}>{PICTURE}" for number in range(1, pictures + 1))
        template: str = self.parts.prompt_template_ti2i
        return template.replace(f"<image1>{PICTURE}", named).format(text)

    def prefix_bytes(self, tokens: int) -> int:
        """Of the keys and values of a prefix with so many tokens."""
        config = self.parts.transformer.config
        width: int = config.num_attention_heads * config.attention_head_dim
        layers: int = config.num_layers
        element: int = self.dtype.itemsize
        return tokens * layers * 2 * width * element

    def prefix(
        self,
        templated: str,
        states: torch.Tensor,
        sizes: Sequence[Size],
        latents: Sequence[torch.Tensor],
        loras: Loras = (),
    ) -> torch.Tensor:
        """(layers, 2, tokens, heads, width of a head), on the transformer's device.

        `states` are what `embed` makes of the text and its pictures, which have these sizes and latents.
        """
        shapes = [(1, height // self.token_pixels, width // self.token_pixels) for width, height in sizes]
        text = Text(states.to(self.devices.transformer, self.dtype), self._are_pictures(templated, sizes))
        prefix: torch.Tensor = self.parts.transformer(
            prefix=(text, [each.to(self.dtype) for each in latents], shapes), loras=loras
        )
        return prefix

    def embed(self, templated: str, pictures: Sequence[Image.Image], *, mrope: bool = True) -> torch.Tensor:
        """(tokens, context_in_dim), in main memory: a prefix is made of it, or made again."""
        flat = [flattened(each) for each in pictures]
        with self._tokenizer_lock:
            inputs = self.parts.processor(text=[templated], images=flat or None, return_tensors="pt")
        encoder = self.parts.text_encoder.model
        with before_last_norm(encoder):
            states = encoder(**inputs.to(self.devices.text_encoder), use_cache=False).last_hidden_state
        seen: torch.Tensor = states[0, self._dropped :].to(self.dtype).contiguous()
        return seen.cpu()

    def _unseen_tokens(self) -> int:
        system = [{"role": "system", "content": [{"type": "text", "text": self.parts.sys_prompt}]}]
        (unseen,) = self.parts.processor.apply_chat_template(system, tokenize=True, return_dict=False)
        return len(unseen)

    def _are_pictures(self, templated: str, sizes: Sequence[Size]) -> tuple[bool, ...]:
        """Of each token that the transformer sees of a text: whether it stands for a part of a picture."""
        tokens = iter([self.vision_tokens(size) for size in sizes])
        with self._tokenizer_lock:
            ids = self.parts.processor.tokenizer(templated)["input_ids"][self._dropped :]
        runs = [(True, next(tokens)) if each == self._slot else (False, 1) for each in ids]
        return tuple(is_picture for is_picture, length in runs for _ in range(length))

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) or (1, C, 1, h, w) → (tokens, C)"""
        return latents.flatten(2)[0].T

    def unpack(self, tokens: torch.Tensor, size: Size) -> torch.Tensor:
        """(tokens, C) of a picture of `size` → (1, C, 1, h, w)"""
        width, height = (side // self.token_pixels for side in size)
        return tokens.T.reshape(1, -1, 1, height, width)

    def encode_picture(self, picture: Image.Image) -> torch.Tensor:
        """VAE latents (tokens, channels) with alpha, on the transformer's device."""
        pixels = self.parts.image_processor.preprocess(picture, picture.height, picture.width).unsqueeze(2)
        latents = self.parts.vae.encode(pixels.to(self.devices.vae, self.parts.vae.dtype)).latent_dist.mode()
        mean, std = self._scaling(latents)
        return self.pack((latents - mean) / std).to(self.devices.transformer).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, 1, h, w) → (4, height, width) in -1..1, in the VAE's dtype"""
        vae = self.parts.vae
        latents = latents.to(self.devices.vae, vae.dtype)
        mean, std = self._scaling(latents)
        pictures: torch.Tensor = vae.decode(latents * std + mean, return_dict=False)[0]
        return pictures[0, :, 0]


@contextlib.contextmanager
def before_last_norm(encoder: Any) -> Iterator[None]:
    """Its states are those in front of the last normalisation, on which the transformer was trained."""
    handle = encoder.language_model.norm.register_forward_hook(lambda module, given, output: given[0])
    try:
        yield
    finally:
        handle.remove()


def flattened(picture: Image.Image) -> Image.Image:
    """On white, as the text encoder sees an RGBA picture."""
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white
