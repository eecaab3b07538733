"""Random-weight checkpoints of Qwen-Image-2.1, built from the real classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.initialization import no_init_weights

from checkpoints.tokenizer import SPECIAL_TOKENS

# What the released processor's template makes of a message of one text, which is all that the pipeline asks it for.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)
TURBO_SIGMAS = [1.0, 0.94, 0.86, 0.76, 0.64, 0.49, 0.32, 0.14]  # eight steps, as a Turbo checkpoint fixes them
PATCH = 16  # pixels of the text encoder's vision
SLOT = 2 * PATCH  # pixels of a vision token


@dataclass(frozen=True)
class Architecture21:
    """Constructor arguments that differ between sizes; the others have their real values at every size."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]
    dtype: torch.dtype


ARCHITECTURES_21 = {
    "tiny": Architecture21(
        transformer={
            "num_layers": 3,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "context_in_dim": 64,
            "axes_dims_rope": (4, 6, 6),
        },
        vae={"base_dim": 8, "decoder_base_dim": 8, "num_res_blocks": 1},
        text={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "mrope_section": [2, 3, 3],
        },
        vision={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "deepstack_visual_indexes": [0],
        },
        dtype=torch.float32,
    ),
    "medium": Architecture21(
        transformer={"num_layers": 6, "num_attention_heads": 8, "context_in_dim": 1024},
        vae={"base_dim": 32, "decoder_base_dim": 32},
        text={
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "mrope_section": [24, 20, 20],
        },
        vision={
            "depth": 4,
            "hidden_size": 320,
            "intermediate_size": 860,
            "num_heads": 4,
            "deepstack_visual_indexes": [1, 2],
        },
        dtype=torch.float32,
    ),
    "full": Architecture21(
        transformer={},
        vae={},
        text={
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "mrope_section": [24, 20, 20],
        },
        vision={},
        dtype=torch.bfloat16,
    ),
}


def uninitialised(
    size: str, tokenizer: Qwen2Tokenizer, device: torch.device, dtype: torch.dtype | None
) -> tuple[QwenImage21Transformer2DModel, AutoencoderKLQwenImage21, Qwen3VLForConditionalGeneration]:
    """The three models, whose weights hold whatever was there."""
    architecture = ARCHITECTURES_21[size]
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype or architecture.dtype)
    try:
        with device, no_init_weights():
            return (
                QwenImage21Transformer2DModel(**architecture.transformer),
                AutoencoderKLQwenImage21(**architecture.vae),
                Qwen3VLForConditionalGeneration(_text_encoder_config(architecture, tokenizer)),
            )
    finally:
        torch.set_default_dtype(previous)


def assembled(
    scheduler: FlowMatchEulerDiscreteScheduler, tokenizer: Qwen2Tokenizer, models: Any, *, turbo: bool
) -> QwenImage21Pipeline:
    transformer, vae, text_encoder = models
    return QwenImage21Pipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        processor=_processor(tokenizer),
        transformer=transformer,
        sample_sigmas=TURBO_SIGMAS if turbo else None,
    )


def _processor(tokenizer: Qwen2Tokenizer) -> Qwen3VLProcessor:
    pixels = {
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": SLOT * SLOT, "longest_edge": 16 * 2**20},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def _text_encoder_config(architecture: Architecture21, tokenizer: Qwen2Tokenizer) -> Qwen3VLConfig:
    text = dict(architecture.text)
    rope = {"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": text.pop("mrope_section")}
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen3VLConfig(
        text_config={"vocab_size": len(tokenizer), "rope_parameters": rope, **text},
        vision_config={"patch_size": PATCH, "out_hidden_size": text["hidden_size"], **architecture.vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
