"""Checkpoint → pipeline, as the settings want it: in which dtype, with what added, on which device."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, QwenImage21Pipeline, QwenImageLayeredPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.families.family import MEGAPIXEL
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward import prefixes, ragged
from qwen_edit.forward.block import Paths
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.loading import (
    adapters,
    attention,
    kernels,
    pictures_once,
    placement,
    prefix_room,
    quantization,
    single_frame,
)
from qwen_edit.loading.checkpoint import Checkpoint, LoadError
from qwen_edit.loading.fast_ways import fast_ways
from qwen_edit.loading.presets import PRESETS, reconfigured
from qwen_edit.loading.self_check import Checked, SelfCheck
from qwen_edit.pipeline import Devices, LayeredPipeline, Pipeline
from qwen_edit.request import Defaults
from qwen_edit.settings import Loading, Settings

log = logging.getLogger("image_edit_server")


@dataclass(frozen=True)
class Loaded:
    pipeline: Pipeline
    sizes: Sizes
    defaults: Defaults
    checked: Sequence[Checked]
    prefix_bytes: int = 0  # that keys and values of prefixes may take
    takes_turns: bool = False  # its parts are never at work at once

    def about(self, loras: Sequence[str]) -> str:
        """JSON: what whoever calls cannot know otherwise. `loras`: names of adapters that a request may name."""
        defaults = self.defaults
        able: dict[str, Any] = {
            "references": defaults.references,
            "transparent": defaults.transparent_wording is not None,
            **({"layers": defaults.layers} if defaults.layers else {}),
            "lora": loras,
        }
        return json.dumps({"pipeline": self.sizes.family.pipeline, **able})


def load(checkpoint: Checkpoint, settings: Settings, device: torch.device) -> Loaded:
    """Loads the checkpoint; raises LoadError."""
    log.info("Loading model from %s...", settings.model_dir)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # else this thread takes memory of the first GPU as well
    family, serving, loading = checkpoint.family, checkpoint.serving, settings.loading
    check(settings, device)
    parts = _parts(checkpoint.folder, loading, device)
    area = settings.reference_area or serving.get("reference_area") or MEGAPIXEL
    try:
        pipeline, checked = accelerate(parts, loading, area, device, balanced=settings.device_map == "balanced")
    except LoadError:
        raise
    except Exception as error:  # compilers and kernels raise almost anything
        if is_out_of_memory(error):
            raise _does_not_fit(checkpoint.folder, device) from None
        log.exception("the loading options could not be applied")
        raise LoadError(f"{_chosen(loading)}: {_reason(error)}") from None
    sizes = Sizes(family, area, pipeline.token_pixels, one_area=serving.get("one_area", False), limits=settings.limits)
    room, references = _prefixes(settings, pipeline, sizes)
    log.info("Model loaded successfully")
    takes_turns = loading.offload == "model"  # the part that is at work sends the others to main memory
    return Loaded(pipeline, sizes, _defaults(settings, serving, pipeline, references), checked, room, takes_turns)


def _prefixes(settings: Settings, pipeline: Pipeline, sizes: Sizes) -> tuple[int, int]:
    """Bytes for prefixes, of a family that has them, and most references of an edit; raises LoadError."""
    if isinstance(pipeline, Pipeline21):
        set_aside = settings.lora_cache_mb * 2**20 if settings.lora_dir else 0
        return prefix_room.room(pipeline, sizes, settings.limits, settings.prefix_bytes, set_aside=set_aside)
    return 0, min(settings.limits.references or sizes.family.usual_references, sizes.family.max_references)


def accelerate(
    parts: Any, loading: Loading, reference_area: int, device: torch.device, *, balanced: bool = False
) -> tuple[Pipeline, Sequence[Checked]]:
    """Does to a pipeline in main memory, or on `device`, what the settings ask for; raises LoadError."""
    paths = Paths()
    _apply(parts, loading, device, paths)
    pipeline = pipeline_of(parts, _place(parts, loading, device, balanced=balanced and device.type == "cuda"))
    checked = SelfCheck(pipeline, paths).run(fast_ways(pipeline, paths, loading, device, reference_area))
    if pipeline.devices.transformer.type == "cuda":
        capability = torch.cuda.get_device_capability(pipeline.devices.transformer)
        kernel = kernels.attention_kernel(pipeline)
        kernels.report(kernel, loading.attention_backend, kernels.cudnn_version(), capability)
    return pipeline, checked


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


def check(settings: Settings, device: torch.device) -> None:
    """Raises LoadError for what this machine cannot do, before gigabytes are read."""
    loading = settings.loading
    placement.check_offload(loading.offload, device)
    quantization.check(quantization.TRANSFORMER, loading.quantization, device)
    quantization.check(quantization.TEXT_ENCODER, loading.text_encoder_quantization, device)
    if loading.compile is True and loading.offload != "none":
        raise LoadError(f"COMPILE=true: not together with OFFLOAD={loading.offload}, whose weights come and go")
    if settings.device_map != "balanced":
        return
    for name, value in (("QUANTIZATION", loading.quantization),
                        ("TEXT_ENCODER_QUANTIZATION", loading.text_encoder_quantization)):  # fmt: skip
        if value not in ("none", "int8"):
            raise LoadError(f"{name}={value}: not together with DEVICE_MAP=balanced; none or int8 is allowed there")
    if loading.offload == "model":
        raise LoadError("OFFLOAD=model: not together with DEVICE_MAP=balanced; none or group is allowed there")


def _apply(parts: Any, loading: Loading, device: torch.device, paths: Paths) -> None:
    """What changes the parts of the pipeline, in the order that each needs; still in main memory."""
    preset = PRESETS[loading.preset].scheduler if loading.preset else {}
    parts.scheduler = reconfigured(parts.scheduler, {**preset, **dict(loading.scheduler_config)})
    adapters.add(parts, loading.adapters, fuse=loading.fuse_adapters)
    attention.set_backend(parts.transformer, loading.attention_backend, device)
    if loading.compile is True and isinstance(parts, QwenImage21Pipeline):
        raise LoadError("COMPILE=true: not for a QwenImage21Pipeline checkpoint; auto or false is allowed there")
    bind(parts, paths)
    if not isinstance(parts, QwenImage21Pipeline):
        single_frame.bind(parts.vae)
        pictures_once.bind(parts.text_encoder.model)
    if loading.vae_tiling:
        parts.vae.enable_tiling()


def _place(parts: Any, loading: Loading, device: torch.device, *, balanced: bool) -> Devices:
    for target, kind in ((quantization.TRANSFORMER, loading.quantization),
                         (quantization.TEXT_ENCODER, loading.text_encoder_quantization)):  # fmt: skip
        layers = quantization.quantize(parts, target, kind, placement.CPU if balanced else device)
        if layers:
            log.info("%s=%s: %d layers", target.setting, kind, layers)
            if loading.offload != "none":
                target.part(parts).to(placement.CPU)
    if balanced:
        return placement.spread(parts, loading.offload)
    return placement.place(parts, device, loading.offload)


def _defaults(settings: Settings, serving: dict[str, Any], pipeline: Pipeline, max_references: int) -> Defaults:
    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    family, sample_sigmas = pipeline.family, pipeline.sample_sigmas
    preset = PRESETS.get(settings.loading.preset)
    return Defaults(
        num_inference_steps=first(
            settings.default_steps,
            preset and preset.num_inference_steps,
            serving.get("num_inference_steps"),
            family.num_inference_steps,
        ),
        true_cfg_scale=first(
            settings.default_true_cfg_scale,
            preset and preset.true_cfg_scale,
            serving.get("true_cfg_scale"),
            family.true_cfg_scale,
        ),
        negative_prompt=first(settings.default_negative_prompt, serving.get("negative_prompt"), family.negative_prompt),
        references=(family.least_references, max_references),
        transparent_wording=family.transparent_wording,
        cache=settings.step_cache,
        layers=family.layers,
        # The text encoder would come to the GPU beside the transformer, at the wrong moment.
        captions=family.layers is not None and settings.loading.offload == "none",
        fixed_steps=len(sample_sigmas) if sample_sigmas else None,
    )


def _parts(folder: Path, loading: Loading, device: torch.device) -> Any:
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        return DiffusionPipeline.from_pretrained(
            str(folder), dtype=_dtype(loading.dtype, device), local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # missing or damaged files surface as almost anything
        log.exception("the checkpoint could not be loaded")
        raise LoadError(f"QWEN_MODEL_DIR={folder}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _chosen(loading: Loading) -> str:
    """The options that are not the defaults, by the names of their settings."""
    names = {
        "attention_backend": "ATTENTION_BACKEND",
        "compile": "COMPILE",
        "offload": "OFFLOAD",
        "quantization": "QUANTIZATION",
        "text_encoder_quantization": "TEXT_ENCODER_QUANTIZATION",
    }
    values = {name: getattr(loading, name) for name in names}
    chosen = [f"{names[name]}={value}" for name, value in values.items() if value != getattr(Loading(), name)]
    return " ".join(chosen).replace("True", "true") or "the loading options"


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _does_not_fit(folder: Path, device: torch.device) -> LoadError:
    return LoadError(
        f"QWEN_MODEL_DIR={folder}: the model does not fit the memory of {device}: QUANTIZATION, OFFLOAD and "
        "DEVICE_MAP=balanced need less"
    )


def instance_device(kind: str, device_id: str) -> torch.device:
    """The device of a Triton instance, from `model_instance_kind` and `model_instance_device_id`."""
    if kind == "GPU":
        return torch.device("cuda", int(device_id))
    if kind == "MODEL" and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
