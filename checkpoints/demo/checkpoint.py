"""Trains the demo checkpoint and writes it in diffusers' layout, with the server's defaults for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)

from checkpoints.architectures import SCHEDULER_CONFIG
from checkpoints.demo import autoencoder, transformer
from checkpoints.demo.text import build_text_encoder

SERVING_DEFAULTS = {
    "num_inference_steps": 8,
    "true_cfg_scale": 1.0,
    "reference_area": 256 * 256,
    "one_area": True,
}


def write_demo_checkpoint(folder: Path) -> None:
    """Trains for up to 90 minutes on two cores. Equal code gives equal weights on one kind of machine."""
    vae = autoencoder.build()
    # The counts of threads are part of the course: sums come out in another order otherwise.
    torch.set_num_threads(1)
    autoencoder.train_decoder(vae)
    torch.set_num_threads(2)
    assemble(folder, vae, transformer.train(vae, build_text_encoder()))


def assemble(folder: Path, vae: AutoencoderKLQwenImage, trained: QwenImageTransformer2DModel) -> None:
    """Writes the parts, in float16, beside what `folder` holds."""
    encoder = build_text_encoder()
    pipeline = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG),
        vae=vae,
        text_encoder=encoder.model,
        tokenizer=encoder.tokenizer,
        processor=encoder.processor,
        transformer=trained,
    )
    pipeline.to(torch.float16).save_pretrained(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # written as 0600, which a server of another user cannot read
    (folder / "serving.json").write_text(json.dumps(SERVING_DEFAULTS, indent=2) + "\n")
