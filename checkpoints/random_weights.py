"""Random-weight Qwen-Image-Edit checkpoints in diffusers' `save_pretrained` layout, built from the real classes.

Run: python -m checkpoints.random_weights FOLDER --family plus
"""

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.initialization import no_init_weights

from checkpoints import qwen_image_21
from checkpoints.architectures import ARCHITECTURES, SCHEDULER_CONFIG, SIZES, Architecture
from checkpoints.tokenizer import SPECIAL_TOKENS, build_tokenizer

PIPELINES: dict[str, type[DiffusionPipeline]] = {
    "edit": QwenImageEditPipeline,
    "plus": QwenImageEditPlusPipeline,
    "plus-2511": QwenImageEditPlusPipeline,
    "layered": QwenImageLayeredPipeline,
    "2.1": QwenImage21Pipeline,
    "2.1-turbo": QwenImage21Pipeline,
}
FAMILIES = tuple(PIPELINES)

SERVING_DEFAULTS = {"num_inference_steps": 8, "true_cfg_scale": 1.0, "reference_area": 128 * 128}

README = """# Random weights

A {size} checkpoint of the `{family}` family ({pipeline}) for tests, in diffusers' `save_pretrained` layout.
Its weights are random: its pictures are noise, whatever the prompt. Never serve it to anyone who expects an edit.

Written by `python -m checkpoints.random_weights FOLDER --family {family} --size {size} --seed {seed}{sensitive}`.
"""


def write_checkpoint(
    folder: Path, family: str = "plus", *, size: str = "tiny", seed: int = 0, sensitive: bool = False
) -> Path:
    """Writes a checkpoint that `DiffusionPipeline.from_pretrained(folder)` loads, and returns `folder`.

    Equal arguments give equal bytes of weights. `sensitive` scales the weights so that errors in conditioning,
    masking or timesteps change the picture by many grey levels instead of about one.
    """
    pipeline = build_pipeline(family, size, seed=seed)
    if sensitive:
        _scale_weights(pipeline)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # written as 0600, which a server of another user cannot read
    if size == "tiny":
        (folder / "serving.json").write_text(json.dumps(SERVING_DEFAULTS, indent=2) + "\n")
    (folder / "README.md").write_text(
        README.format(
            size=size,
            family=family,
            pipeline=type(pipeline).__name__,
            seed=seed,
            sensitive=" --sensitive" if sensitive else "",
        )
    )
    return folder


def build_pipeline(
    family: str,
    size: str,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> DiffusionPipeline:
    """Builds a pipeline whose weights are created directly on `device` in `dtype`.

    `dtype` defaults to bfloat16 for "full" and to float32 for the others. Weights are equal for equal arguments on
    one kind of device. On "meta" they have shapes only. Raises ValueError for an unknown family or size.
    """
    if family not in PIPELINES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
    if size not in ARCHITECTURES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
    architecture = ARCHITECTURES[size]
    device = torch.device(device)
    tokenizer = build_tokenizer()
    is_21 = PIPELINES[family] is QwenImage21Pipeline
    if is_21:
        models = qwen_image_21.uninitialised(size, tokenizer, device, dtype)
    else:
        models = _build_models(architecture, tokenizer, family, device, dtype or architecture.dtype)
    for model in models:
        model.eval().requires_grad_(False)
    transformer, vae, text_encoder = models
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    randomize(transformer, generator)
    randomize(vae, generator)
    randomize(text_encoder, generator, std=text_encoder.config.text_config.initializer_range)
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG)
    if is_21:
        return qwen_image_21.assembled(scheduler, tokenizer, models, turbo=family == "2.1-turbo")
    return PIPELINES[family](
        scheduler=scheduler,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        processor=build_processor(tokenizer, architecture.min_pixels),
        transformer=transformer,
    )


def build_processor(tokenizer: Qwen2Tokenizer, min_pixels: int) -> Qwen2VLProcessor:
    pixels = {
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": min_pixels, "longest_edge": 12845056},
    }
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
    )


def _build_models(
    architecture: Architecture,
    tokenizer: Qwen2Tokenizer,
    family: str,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[QwenImageTransformer2DModel, AutoencoderKLQwenImage, Qwen2_5_VLForConditionalGeneration]:
    """The three models with uninitialised weights."""
    text_config = text_encoder_config(tokenizer, architecture.text, architecture.vision)
    layered = family == "layered"
    transformer = {
        "zero_cond_t": family == "plus-2511",
        "use_additional_t_cond": layered,
        "use_layer3d_rope": layered,
        **architecture.transformer,
    }
    channels = 4 if layered else 3  # of a picture
    previous_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device, no_init_weights():
            models = (
                QwenImageTransformer2DModel(in_channels=64, out_channels=16, **transformer),
                AutoencoderKLQwenImage(z_dim=16, dim_mult=[1, 2, 4, 4], input_channels=channels, **architecture.vae),
                Qwen2_5_VLForConditionalGeneration(text_config),
            )
    finally:
        torch.set_default_dtype(previous_dtype)
    return models


def text_encoder_config(
    tokenizer: Qwen2Tokenizer, text: dict[str, Any], vision: dict[str, Any], *, tied: bool = False
) -> Qwen2_5_VLConfig:
    """`tied`: one matrix is both the embeddings and the logits' weights; the pipelines need no logits."""
    text = dict(text)
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": text.pop("mrope_section")}
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **text,
        },
        vision_config={
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
            "out_hidden_size": text["hidden_size"],
            **vision,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


@torch.no_grad()
def randomize(model: torch.nn.Module, generator: torch.Generator | None, std: float | None = None) -> None:
    """Draws every parameter in place; matrices and kernels get `std`, or 1 / sqrt(3 fan_in), torch's own."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        if name.endswith(".bias"):
            parameter.normal_(0.0, 0.02, generator=generator)
        elif parameter.numel() == parameter.shape[0]:  # the scale of a normalisation: (C,) or (C, 1, 1)
            parameter.normal_(1.0, 0.1, generator=generator)
        else:
            fan_in = math.prod(parameter.shape[1:])
            parameter.normal_(0.0, std or (3 * fan_in) ** -0.5, generator=generator)


def _scale_weights(pipeline: DiffusionPipeline) -> None:
    transformer, text_encoder, decoder = pipeline.transformer, pipeline.text_encoder, pipeline.vae.decoder
    convolutions = (torch.nn.Conv2d, torch.nn.Conv3d)
    _scale((weight for weight in transformer.parameters() if weight.ndim == 2), 2.0)
    _scale([transformer.proj_out.weight], 2.0)
    # The gates are modulation outputs: as drawn they let attention, hence the prompt, through too faintly.
    modulations = ("_mod.", "modulation.")
    _scale(
        (
            weight
            for name, weight in transformer.named_parameters()
            if any(m in name for m in modulations) and weight.ndim == 2
        ),
        3.0,
    )
    _scale((weight for weight in text_encoder.parameters() if weight.ndim == 2), 10.0)
    _scale((module.weight for module in decoder.modules() if isinstance(module, convolutions)), 1.5)


@torch.no_grad()
def _scale(weights: Iterable[torch.Tensor], factor: float) -> None:
    for weight in weights:
        weight.mul_(factor)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random-weight Qwen-Image-Edit checkpoint.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--family", choices=FAMILIES, default="plus")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sensitive", action="store_true", help="scale weights so that errors are visible in pictures")
    arguments = parser.parse_args()
    write_checkpoint(
        arguments.folder,
        arguments.family,
        size=arguments.size,
        seed=arguments.seed,
        sensitive=arguments.sensitive,
    )


if __name__ == "__main__":
    main()
