"""Pictures that are taken apart: requests of Qwen-Image-Layered, and the same by the diffusers pipeline."""

from __future__ import annotations

import io
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from qwen_edit.families.layering import RESOLUTIONS, Layering
from qwen_edit.families.sizes import Sizes
from qwen_edit.pipeline import Pipeline
from qwen_edit.request import EditRequest

from tests.kit import stock
from tests.kit.engines import edit


def taken_apart(picture: bytes, layers: int = 2, resolution: int = RESOLUTIONS[0], **changes: Any) -> EditRequest:
    return edit(picture, size=None, layering=Layering(layers, resolution), **changes)


def with_alpha(picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as opened:
        opened.putalpha(Image.linear_gradient("L").resize(opened.size))
        file = io.BytesIO()
        opened.save(file, "PNG")
    return file.getvalue()


class Theirs(NamedTuple):
    latents: npt.NDArray[np.float32]  # packed, (tokens, channels)
    layers: npt.NDArray[np.float32]  # (layers, height, width, 4) in 0..1


class Model(Protocol):
    pipeline: Pipeline
    sizes: Sizes


def oracle(model: Model, request: EditRequest, **options: Any) -> Theirs:
    """Its latents are taken on the way, as the pipeline of diffusers 0.42.1 fails where they are asked for."""
    assert request.layering
    ended: dict[str, Any] = {}
    settings: dict[str, Any] = {"cfg_normalize": True, "use_en_prompt": True} | options
    with stock.resolutions(model.sizes):
        answer = stock.run(
            model.pipeline.parts,
            [Image.open(io.BytesIO(request.images[0])).convert("RGBA")],
            prompt=request.prompt,
            negative_prompt=request.negative_prompt if request.guided else None,
            true_cfg_scale=request.true_cfg_scale,
            size=None,
            num_inference_steps=request.num_inference_steps,
            seed=request.seed,
            output_type="np",
            callback_on_step_end=lambda pipeline, step, time, tensors: ended.update(tensors) or {},
            layers=request.layering.layers,
            resolution=request.layering.resolution,
            **settings,
        )
    return Theirs(ended["latents"][0].float().cpu().numpy(), np.asarray(answer))


def composited(layers: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """One over the other, (height, width, 4)."""
    bottom, *others = (Image.fromarray(layer) for layer in layers)
    for layer in others:
        bottom = Image.alpha_composite(bottom, layer)
    return np.asarray(bottom)
