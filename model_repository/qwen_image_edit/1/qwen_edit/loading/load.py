"""Checkpoint → pipeline, as the settings want it, and what a request gets that names nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from qwen_edit.device_errors import is_out_of_memory
from qwen_edit.families.family import MEGAPIXEL
from qwen_edit.families.sizes import Sizes
from qwen_edit.forward.pipeline21 import Pipeline21
from qwen_edit.forward.replicas import Replicas
from qwen_edit.loading import placement, prefix_room, quantization
from qwen_edit.loading.assembly import accelerate, replicate
from qwen_edit.loading.checkpoint import Checkpoint, LoadError
from qwen_edit.loading.presets import PRESETS
from qwen_edit.loading.self_check import Checked
from qwen_edit.pipeline import Pipeline
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
    replicas: Replicas | None = None  # of the pipeline's transformer, itself the first

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
    cards = placement.replica_cards(settings, device, family) if settings.gpus_per_instance > 1 else []
    parts = _parts(checkpoint.folder, loading, device)
    area = settings.reference_area or serving.get("reference_area") or MEGAPIXEL
    try:
        if cards:
            pipelines, checked = replicate(parts, loading, area, cards)
        else:
            pipeline, checked = accelerate(parts, loading, area, device, balanced=settings.device_map == "balanced")
            pipelines = [pipeline]
    except LoadError:
        raise
    except Exception as error:  # compilers and kernels raise almost anything
        if is_out_of_memory(error):
            raise _does_not_fit(checkpoint.folder, device) from None
        log.exception("the loading options could not be applied")
        raise LoadError(f"{_chosen(loading)}: {_reason(error)}") from None
    pipeline, replicas = pipelines[0], Replicas(pipelines) if cards else None
    sizes = Sizes(family, area, pipeline.token_pixels, one_area=serving.get("one_area", False), limits=settings.limits)
    room, references = _prefixes(settings, pipeline, sizes)
    log.info("Model loaded successfully")
    takes_turns = loading.offload == "model"  # the part that is at work sends the others to main memory
    defaults = _defaults(settings, serving, pipeline, references)
    return Loaded(pipeline, sizes, defaults, checked, room, takes_turns, replicas)


def _prefixes(settings: Settings, pipeline: Pipeline, sizes: Sizes) -> tuple[int, int]:
    """Bytes for prefixes, of a family that has them, and most references of an edit; raises LoadError."""
    if isinstance(pipeline, Pipeline21):
        set_aside = settings.lora_cache_mb * 2**20 if settings.lora_dir else 0
        return prefix_room.room(pipeline, sizes, settings.limits, settings.prefix_bytes, set_aside=set_aside)
    return 0, min(settings.limits.references or sizes.family.usual_references, sizes.family.max_references)


def check(settings: Settings, device: torch.device) -> None:
    """Raises LoadError for what this machine cannot do, before gigabytes are read."""
    loading = settings.loading
    placement.check_offload(loading.offload, device)
    if settings.lora_dir and not Path(settings.lora_dir).expanduser().is_dir():
        raise LoadError(f"LORA_DIR={settings.lora_dir}: there is no such folder")
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
