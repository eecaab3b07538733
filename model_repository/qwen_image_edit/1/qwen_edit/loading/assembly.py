"""A pipeline in main memory → one that serves, or several: changed as the settings want it, placed, made fast."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import QwenImage21Pipeline, QwenImageLayeredPipeline

from qwen_edit.forward import prefixes, ragged
from qwen_edit.forward.block import Paths
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading import (
    adapters,
    attention,
    kernels,
    pictures_once,
    placement,
    quantization,
    single_frame,
)
from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.loading.fast_ways import fast_ways
from qwen_edit.loading.presets import PRESETS, reconfigured
from qwen_edit.loading.self_check import Checked, SelfCheck
from qwen_edit.pipeline import Devices, LayeredPipeline, Pipeline
from qwen_edit.settings import Loading

log = logging.getLogger("image_edit_server")


def accelerate(
    parts: Any, loading: Loading, reference_area: int, device: torch.device, paths: Paths | None = None, *,
    balanced: bool = False,
) -> tuple[Pipeline, Sequence[Checked]]:  # fmt: skip
    """Does to a pipeline in main memory, or on `device`, what the settings ask for; raises LoadError.

    `paths` is for who wants to change the forward's ways later.
    """
    paths = paths or Paths()
    _apply(parts, loading, device)
    bind(parts, paths)
    pipeline = pipeline_of(parts, _place(parts, loading, device, balanced=balanced and device.type == "cuda"))
    return pipeline, _hasten(pipeline, paths, loading, reference_area)


def replicate(
    parts: Any, loading: Loading, reference_area: int, cards: Sequence[torch.device]
) -> tuple[list[Pipeline], Sequence[Checked]]:
    """Does the same to a pipeline in main memory, with a transformer on each card; raises LoadError."""
    made = replicas_of(parts, loading, cards)
    checked = [_hasten(pipeline, paths, loading, reference_area) for pipeline, paths in made]
    return [pipeline for pipeline, _ in made], [each for of_one in checked for each in of_one]


def replicas_of(parts: Any, loading: Loading, cards: Sequence[torch.device]) -> list[tuple[Pipeline, Paths]]:
    """One a card, but with the text encoder and the VAE of all of them on the second; raises LoadError.

    Main memory has two transformers at a time: the first, of which the others are copies, and a copy on its way.
    """
    _apply(parts, loading, cards[0])
    _quantize(parts, quantization.TEXT_ENCODER, loading.text_encoder_quantization, cards[1])
    for name, part in placement.parts_of(parts).items():
        if name != "transformer":
            part.to(cards[1])
    made = []
    for number in reversed(range(len(cards))):
        own = placement.with_own_transformer(parts) if number else parts
        paths = Paths()
        bind(own, paths)
        _quantize(own, quantization.TRANSFORMER, loading.quantization, cards[number])
        own.transformer.to(cards[number])
        made.append((pipeline_of(own, Devices(cards[number], cards[1], cards[1])), paths))
    return made[::-1]


def _hasten(pipeline: Pipeline, paths: Paths, loading: Loading, reference_area: int) -> Sequence[Checked]:
    """Switches on, and checks, what makes the transformer faster where it lies; raises LoadError."""
    device = pipeline.devices.transformer
    checked = SelfCheck(pipeline, paths).run(fast_ways(pipeline, paths, loading, device, reference_area))
    if pipeline.devices.transformer.type == "cuda":
        capability = torch.cuda.get_device_capability(pipeline.devices.transformer)
        kernel = kernels.attention_kernel(pipeline)
        kernels.report(kernel, loading.attention_backend, kernels.cudnn_version(), capability)
    return checked


def bind(parts: Any, paths: Paths | None = None) -> None:
    """Puts our forward in the place of the transformer's own, which it still is where diffusers calls it."""
    if isinstance(parts, QwenImage21Pipeline):
        prefixes.bind(parts.transformer, paths)
    else:
        ragged.bind(parts.transformer, paths)


def pipeline_of(parts: Any, devices: Devices | None = None) -> Pipeline:
    """Of what diffusers loaded."""
    if isinstance(parts, QwenImage21Pipeline):
        return Pipeline21(parts, devices)
    return LayeredPipeline(parts, devices) if isinstance(parts, QwenImageLayeredPipeline) else Pipeline(parts, devices)


def _apply(parts: Any, loading: Loading, device: torch.device) -> None:
    """What changes the parts of the pipeline, in the order that each needs; still in main memory."""
    preset = PRESETS[loading.preset].scheduler if loading.preset else {}
    parts.scheduler = reconfigured(parts.scheduler, {**preset, **dict(loading.scheduler_config)})
    adapters.add(parts, loading.adapters, fuse=loading.fuse_adapters)
    attention.set_backend(parts.transformer, loading.attention_backend, device)
    if loading.compile is True and isinstance(parts, QwenImage21Pipeline):
        raise LoadError("COMPILE=true: not for a QwenImage21Pipeline checkpoint; auto or false is allowed there")
    if not isinstance(parts, QwenImage21Pipeline):
        single_frame.bind(parts.vae)
        pictures_once.bind(parts.text_encoder.model)
    if loading.vae_tiling:
        parts.vae.enable_tiling()


def _place(parts: Any, loading: Loading, device: torch.device, *, balanced: bool) -> Devices:
    for target, kind in ((quantization.TRANSFORMER, loading.quantization),
                         (quantization.TEXT_ENCODER, loading.text_encoder_quantization)):  # fmt: skip
        if _quantize(parts, target, kind, placement.CPU if balanced else device) and loading.offload != "none":
            target.part(parts).to(placement.CPU)
    if balanced:
        return placement.spread(parts, loading.offload)
    return placement.place(parts, device, loading.offload)


def _quantize(parts: Any, target: quantization.Target, kind: str, device: torch.device) -> int:
    """How many layers; raises LoadError."""
    layers = quantization.quantize(parts, target, kind, device)
    if layers:
        log.info("%s=%s: %d layers", target.setting, kind, layers)
    return layers
