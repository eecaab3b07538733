"""The diffusers pipeline, typed: the one file that knows its helpers, and what they expect of their callers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.models.attention_dispatch import dispatch_attention_fn
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from qwen_edit.families.family import Family, Size
from qwen_edit.families.known import FAMILIES


@dataclass(frozen=True)
class Devices:
    """Where inputs of each part go; its weights may be elsewhere at the moment."""

    transformer: torch.device
    text_encoder: torch.device
    vae: torch.device

    @classmethod
    def of(cls, parts: Any) -> Self:
        """Of a pipeline whose parts lie where they compute."""
        return cls(parts.transformer.device, parts.text_encoder.device, parts.vae.device)

    @classmethod
    def all(cls, device: torch.device) -> Self:
        """A GPU without a number is the first: a thread cannot choose one that has none."""
        numbered = torch.device("cuda", 0) if device == torch.device("cuda") else device
        return cls(numbered, numbered, numbered)


class Scheduler(Protocol):
    """A FlowMatchEulerDiscreteScheduler, of which each use takes a copy."""

    config: Mapping[str, Any]
    sigmas: torch.Tensor
    timesteps: torch.Tensor

    def set_timesteps(self, *, sigmas: npt.NDArray[np.float64], device: str, mu: float) -> None: ...


MAX_CAPTION_TOKENS = 512

Shape = tuple[int, int, int]  # (frames, height, width) in tokens of a picture; more frames than one have layers


class LowRank(NamedTuple):
    """What is added to a layer's output: of its input the product with `down`, and of that the product with `up`."""

    down: torch.Tensor  # (rank, inputs)
    up: torch.Tensor  # (outputs, rank)


@dataclass(frozen=True, eq=False)
class Weighed:
    """A LoRA where the transformer is, and how much of it is added."""

    digest: str
    weight: float
    layers: Mapping[torch.nn.Module, LowRank]
    on_times: bool  # whether it changes what is made of a row's time
    elsewhere: Sequence[Mapping[torch.nn.Module, LowRank]] = ()  # the same of each further transformer

    @property
    def identity(self) -> tuple[str, float]:
        return self.digest, self.weight


Loras = tuple[Weighed, ...]  # of one row, which add up


class Row(NamedTuple):
    """One transformer input."""

    tokens: torch.Tensor  # (image tokens, channels), of the output and then of each reference
    shapes: tuple[Shape, ...]  # of the same pictures
    text: torch.Tensor  # (text tokens, joint_attention_dim); or a prefix, see prefixes.py
    time: float  # in 0..1
    loras: Loras = ()


class Pipeline:
    """`parts` is the pipeline as diffusers made it, for who loads it and changes it."""

    packed = 2  # latents a side in a token
    slot_tokens = 1  # that the transformer sees of one vision token

    def __init__(self, parts: Any, devices: Devices | None = None) -> None:
        self.parts = parts
        self.devices = devices or Devices.of(parts)
        self.family: Family = FAMILIES[type(parts).__name__]
        self.scheduler: Scheduler = parts.scheduler
        # Where the checkpoint fixes its noise levels, and with them its steps.
        self.sample_sigmas: Sequence[float] | None = parts.config.get("sample_sigmas")
        self.latent_pixels: int = parts.vae_scale_factor  # that a latent spans, a side
        self.token_pixels = self.packed * self.latent_pixels  # that a token spans
        self.latent_channels: int = parts.latent_channels
        self.token_channels: int = parts.transformer.config.in_channels
        self.dtype: torch.dtype = parts.transformer.dtype  # of its inputs; asked once, as it looks at every module
        self._scalings: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}
        tokens = sorted(parts.processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        self.control_tokens = re.compile("|".join(map(re.escape, tokens)))
        self._dropped = self._unseen_tokens()
        # The processor changes its tokenizer's padding, and a tokenizer in use must not be changed.
        self._tokenizer_lock = threading.Lock()

    def templated(self, text: str, pictures: int) -> str:
        """What the text encoder reads."""
        template: str = self.parts.prompt_template_encode
        return template.format((picture_names(pictures) if self.family.names_pictures else "") + text)

    def text_tokens(self, templated: str, pictures: Sequence[Size]) -> int:
        """That the transformer sees of a text with pictures of these sizes."""
        # The template has one token a picture, which the processor repeats.
        repeats = sum(self.vision_tokens(size) * self.slot_tokens - 1 for size in pictures)
        with self._tokenizer_lock:
            ids = self.parts.processor.tokenizer(templated)["input_ids"]
        return len(ids) + repeats - self._dropped

    def vision_tokens(self, picture: Size) -> int:
        """That the text encoder sees of a picture."""
        processor, (width, height) = self.parts.processor.image_processor, picture
        patches: int = processor.get_number_of_image_patches(height, width, {})
        merge: int = processor.merge_size
        return patches // merge**2

    def embed(self, templated: str, pictures: Sequence[Image.Image], *, mrope: bool) -> torch.Tensor:
        """(tokens, joint_attention_dim), in the text encoder's dtype, on the transformer's device."""
        with self._tokenizer_lock:
            inputs = self.parts.processor(text=[templated], images=list(pictures), padding=True, return_tensors="pt")
        inputs = inputs.to(self.devices.text_encoder)
        # diffusers 0.42.1 does not pass mm_token_type_ids, and transformers then falls back to 1-D positions in
        # silence; the checkpoints were trained with 3-D ones (M-RoPE).
        positions = {"mm_token_type_ids": inputs["mm_token_type_ids"]} if mrope else {}
        # The inner model leaves out the vocabulary logits and the KV cache; its last hidden state is the same.
        hidden: torch.Tensor = self.parts.text_encoder.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            use_cache=False,
            **positions,
        ).last_hidden_state
        return hidden[0, self._dropped :].to(self.devices.transformer).contiguous()

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) or (1, C, 1, h, w) → (tokens, 4 C)"""
        return packed(latents)[0]

    def unpack(self, tokens: torch.Tensor, size: Size) -> torch.Tensor:
        """(tokens, 4 C) of a picture of `size` → (1, C, 1, h, w)"""
        width, height = size
        latents: torch.Tensor = self.parts._unpack_latents(tokens[None], height, width, self.latent_pixels)
        return latents

    def noise(self, seed: int, size: Size, frames: int = 1) -> torch.Tensor:
        """Packed (tokens, channels) float32, drawn on the CPU in the unpacked shape, as diffusers draws it."""
        width, height = (self.packed * (side // self.token_pixels) for side in size)
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.randn((frames, self.latent_channels, height, width), generator=generator, dtype=torch.float32)
        return torch.cat([self.pack(frame[None]) for frame in drawn]).to(self.devices.transformer)

    def encode_picture(self, picture: Image.Image) -> torch.Tensor:
        """Packed VAE latents (tokens, channels), on the transformer's device; the sides are multiples of a token's."""
        pixels = self.parts.image_processor.preprocess(picture, picture.height, picture.width).unsqueeze(2)
        pixels = pixels.to(self.devices.vae, self.parts.vae.dtype)
        latents: torch.Tensor = self.parts._encode_vae_image(image=pixels, generator=None)  # (1, C, 1, h, w)
        return self.pack(latents).to(self.devices.transformer).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, 1, h, w) → (3 or 4, height, width) in -1..1, in the VAE's dtype"""
        vae = self.parts.vae
        latents = latents.to(self.devices.vae, vae.dtype)
        mean, std = self._scaling(latents)
        # Divided by the inverse, as the pipelines do it, so that the result is theirs to the last bit.
        pictures: torch.Tensor = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
        return pictures[0, :, 0]

    def _scaling(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation by which latents are normalised, beside these: to put them there, a GPU is waited for."""
        place = latents.device, latents.dtype
        if place not in self._scalings:
            config = self.parts.vae.config
            mean, std = (
                torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
                for values in (config.latents_mean, config.latents_std)
            )
            self._scalings[place] = mean, std
        return self._scalings[place]

    def _unseen_tokens(self) -> int:
        """How many of the template's first tokens the transformer does not see."""
        count: int = self.parts.prompt_template_encode_start_idx
        return count

    def velocities(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """The transformer's for each row's output, (tokens, channels)."""
        velocities: list[torch.Tensor] = self.parts.transformer(rows=rows)
        return velocities


class StopsWhere(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped
    """Ends a text after the token at which the condition was met."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._condition = condition
        self.met = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Whether each text of the batch ends, (texts,)."""
        self.met = self._condition()
        return torch.full(input_ids.shape[:1], self.met, device=input_ids.device)


class LayeredPipeline(Pipeline):
    """Of a checkpoint that takes pictures apart: its text encoder sees a caption alone."""

    def __init__(self, parts: Any, devices: Devices | None = None) -> None:
        super().__init__(parts, devices)

    @torch.inference_mode()
    def caption(self, picture: Image.Image, unwanted: Callable[[], bool]) -> str | None:
        """What the text encoder says of it, the same each time; None where it was `unwanted` before it was done.

        One at a time; texts may be embedded meanwhile.
        Its words are the likeliest, where a checkpoint may be set to draw them: an edit's caption is not to change.
        """
        with self._tokenizer_lock:
            asked = self.parts.processor(
                text=self.parts.image_caption_prompt_en, images=picture, padding=True, return_tensors="pt"
            )
        asked = asked.to(self.devices.text_encoder)
        stopped = StopsWhere(unwanted)
        written = self.parts.text_encoder.generate(
            **asked, max_new_tokens=MAX_CAPTION_TOKENS, do_sample=False, temperature=None, top_p=None, top_k=None,
            stopping_criteria=StoppingCriteriaList([stopped]),
        )  # fmt: skip
        if stopped.met:
            return None
        answer = written[:, asked["input_ids"].shape[1] :]
        (caption,) = self.parts.processor.batch_decode(
            answer, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(caption).strip()

    def embed(self, templated: str, pictures: Sequence[Image.Image], *, mrope: bool) -> torch.Tensor:
        """(tokens, joint_attention_dim), in the text encoder's dtype, on the transformer's device; no more than fit."""
        with self._tokenizer_lock:
            tokens = self.parts.processor.tokenizer(templated, return_tensors="pt")
        # diffusers cuts the states. Each looks back only, so that they are the same where the text is cut.
        most = self._dropped + self.family.max_text_tokens
        ids, mask = (tokens[name][:, :most].to(self.devices.text_encoder) for name in ("input_ids", "attention_mask"))
        states: torch.Tensor = self.parts.text_encoder.model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return states[0, self._dropped :].to(self.devices.transformer).contiguous()

    def unpack(self, tokens: torch.Tensor, size: Size) -> torch.Tensor:
        """(tokens, 4 C) of one frame of `size` → (1, C, 1, h, w)"""
        width, height = size
        latents: torch.Tensor = self.parts._unpack_latents(tokens[None], height, width, 0, self.latent_pixels)
        return latents


def picture_names(count: int) -> str:
    """How the Plus pipeline names its pictures in front of the prompt."""
    return "".join(f"Picture {number}: <|vision_start|><|image_pad|><|vision_end|>" for number in range(1, count + 1))


def dense_attention(attention: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, width of a head), each; by the kernel that set_attention_backend chose for a block's attention"""
    attended: torch.Tensor = dispatch_attention_fn(
        queries[None], keys[None], values[None], backend=attention.processor._attention_backend
    )
    return attended[0]


def packed(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) or (B, C, 1, h, w) → (B, tokens, 4 C), as all families' pipelines pack them"""
    batch, channels, height, width = *latents.shape[:2], *latents.shape[-2:]
    tokens: torch.Tensor = QwenImageEditPlusPipeline._pack_latents(latents, batch, channels, height, width)
    return tokens


def zeros_around(convolution: Any) -> tuple[int, int]:
    """Rows above and below, and columns at both sides, that a causal convolution of the VAE pads a picture with."""
    columns, _, rows, *_ = convolution._padding
    return rows, columns
