"""Trains the demo checkpoint and writes it in diffusers' layout, with the server's defaults for it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)

from standalone.checkpoint import SCHEDULER_CONFIG
from standalone.demo import autoencoder, transformer
from standalone.demo.text import build_text_encoder

SERVING_DEFAULTS = {"num_inference_steps": 8, "true_cfg_scale": 1.0, "reference_area": 256 * 256}


def write_demo_checkpoint(folder: Path) -> None:
    """Trains for about an hour on two cores. Equal code gives equal weights on one kind of machine."""
    with tempfile.TemporaryDirectory() as work:
        trained = Path(work)
        # One thread each: two that wait for each other are slower, and sums come out in another order.
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            trainings = [pool.submit(train, trained) for train in (_train_decoder, _train_transformer)]
            for training in trainings:
                training.result()
        assemble(
            folder,
            AutoencoderKLQwenImage.from_pretrained(trained / "vae"),
            QwenImageTransformer2DModel.from_pretrained(trained / "transformer"),
        )


def _train_decoder(folder: Path) -> None:
    _prepare_process()
    vae = autoencoder.build()
    autoencoder.train_decoder(vae)
    vae.save_pretrained(folder / "vae")


def _train_transformer(folder: Path) -> None:
    """The VAE's encoder is not trained, so this need not wait for the decoder."""
    _prepare_process()
    trained = transformer.train(autoencoder.build(), build_text_encoder())
    trained.save_pretrained(folder / "transformer")


def _prepare_process() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


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
