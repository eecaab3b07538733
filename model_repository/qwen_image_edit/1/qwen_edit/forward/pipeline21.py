"""The diffusers pipeline of Qwen-Image-2.1, typed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from qwen_edit.families.family import Size
from qwen_edit.forward.prefixes import Text
from qwen_edit.pipeline import Devices, Pipeline

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

    def prefix(self, templated: str, pictures: Sequence[Image.Image], latents: Sequence[torch.Tensor]) -> torch.Tensor:
        """(layers, 2, tokens, heads, width of a head), on the transformer's device; `latents` are the pictures'."""
        text = self._text(templated, pictures)
        shapes = [(1, *(side // self.token_pixels for side in (each.height, each.width))) for each in pictures]
        prefix: torch.Tensor = self.parts.transformer(prefix=(text, [each.to(self.dtype) for each in latents], shapes))
        return prefix

    def _unseen_tokens(self) -> int:
        system = [{"role": "system", "content": [{"type": "text", "text": self.parts.sys_prompt}]}]
        (unseen,) = self.parts.processor.apply_chat_template(system, tokenize=True, return_dict=False)
        return len(unseen)

    def _text(self, templated: str, pictures: Sequence[Image.Image]) -> Text:
        flat = [flattened(each) for each in pictures]
        with self._tokenizer_lock:
            inputs = self.parts.processor(text=[templated], images=flat or None, return_tensors="pt")
        is_picture = tuple((inputs["input_ids"][0, self._dropped :] == self._slot).tolist())
        encoder = self.parts.text_encoder.model
        with before_last_norm(encoder):
            states = encoder(**inputs.to(self.devices.text_encoder), use_cache=False).last_hidden_state
        return Text(states[0, self._dropped :].to(self.devices.transformer, self.dtype), is_picture)

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

    def _scaling(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation by which latents are normalised."""
        config = self.parts.vae.config
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


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
