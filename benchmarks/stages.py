"""What an edit costs beside its steps: text encoder, VAE, PNG; and how far bf16 alone is from float32."""

from __future__ import annotations

import copy
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from qwen_edit.families.sizes import Sizes
from qwen_edit.loading.self_check import distance
from qwen_edit.pipeline import Pipeline

from benchmarks import forwards
from shim.running.encode import encode

CUT = 6  # blocks of which there is room for float32 weights beside the model


@torch.inference_mode()
def measure(pipeline: Pipeline, sizes: Sizes, side: int, picture: bytes, prompt: str, repeats: int) -> dict[str, float]:
    """Seconds of each, medians."""
    with Image.open(io.BytesIO(picture)) as photograph:
        photo = photograph.convert("RGB").resize((side, side))
    (condition,) = sizes.geometry([(side, side)], None, masked=False).conditions
    small = photo.resize(condition)
    films = as_films(pipeline)
    latents = pipeline.encode_picture(photo)
    unpacked = pipeline.unpack(latents, (side, side))
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    templates = iter(range(10**9))
    works: dict[str, Callable[[], Any]] = {
        # Another prompt each time, of a picture that it has seen and of one that it has not.
        "text, the same picture": lambda: embedded(pipeline, f"{prompt} {next(templates)}", small),
        "text and picture": lambda: embedded(pipeline, prompt, small.rotate(next(templates) % 360)),
        "VAE, encoding": lambda: pipeline.encode_picture(photo),
        "VAE, decoding": lambda: pipeline.decode(unpacked),
        "VAE as diffusers has it, encoding": lambda: films.encode_picture(photo),
        "VAE as diffusers has it, decoding": lambda: films.decode(unpacked),
        "PNG of a photograph": lambda: encode(np.asarray(photo), "png", 100),
        "PNG of noise": lambda: encode(noise, "png", 100),
        "transformer.dtype": lambda: pipeline.parts.transformer.dtype,
    }
    return {name: seconds(work, pipeline.devices.vae, repeats) for name, work in works.items()}


def embedded(pipeline: Pipeline, prompt: str, picture: Image.Image) -> torch.Tensor:
    return pipeline.embed(pipeline.templated(prompt, 1), [picture], mrope=True)


def as_films(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with a VAE as diffusers makes it, with other weights."""
    vae = pipeline.parts.vae
    parts = copy.copy(pipeline.parts)
    parts.register_modules(vae=type(vae).from_config(vae.config).to(vae.device, vae.dtype))
    return type(pipeline)(parts, pipeline.devices)


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@torch.inference_mode()
def rounding(pipeline: Pipeline, sizes: Sizes, side: int) -> dict[str, float]:
    """Root mean square error of ours and of diffusers' forward through the first blocks, against these in float32."""
    transformer: Any = pipeline.parts.transformer
    rows = forwards.crowd(pipeline, sizes, side, [forwards.TEXT_TOKENS])
    whole = transformer.transformer_blocks
    # Our last block leaves out what nobody reads, and so it stays the last.
    transformer.transformer_blocks = torch.nn.ModuleList([*whole[: min(CUT, len(whole)) - 1], whole[-1]])
    try:
        exact = in_float32(transformer)
        (ours,) = pipeline.velocities(rows)
        theirs = forwards.by_diffusers(pipeline, rows)[0, : len(ours)]
        row = rows[0]._replace(tokens=rows[0].tokens.float(), text=rows[0].text.float())
        reference = forwards.called(exact, [row])[0, : len(ours)]
    finally:
        transformer.transformer_blocks = whole
    return {"ours": distance(ours, reference), "diffusers": distance(theirs, reference)}


def in_float32(transformer: Any) -> Any:
    """A copy by diffusers' class, of as many blocks."""
    config = {**transformer.config, "num_layers": len(transformer.transformer_blocks)}
    with torch.device(transformer.device):
        exact = type(transformer).from_config(config)
    exact.load_state_dict(transformer.state_dict())
    return exact.float()
