"""Checkpoint → pipeline components: in which dtype, on which device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from qwen_edit.checkpoint import Checkpoint, LoadError
from qwen_edit.families import MEGAPIXEL, Family, Sizes
from qwen_edit.request import Defaults
from qwen_edit.settings import Settings

log = logging.getLogger("image_edit_server")

# The authors run guidance with a negative prompt of one space.
NEGATIVE_PROMPT = " "
TRUE_CFG_SCALE = 4.0


@dataclass(frozen=True)
class Loaded:
    pipeline: Any
    family: Family
    sizes: Sizes
    defaults: Defaults
    device: torch.device


def load(checkpoint: Checkpoint, settings: Settings, device: torch.device) -> Loaded:
    """Loads the checkpoint; raises LoadError."""
    log.info("Loading model from %s...", settings.model_dir)
    family, serving = checkpoint.family, checkpoint.serving
    pipeline = _pipeline(checkpoint.folder, settings, device)
    area = settings.reference_area or serving.get("reference_area") or MEGAPIXEL
    sizes = Sizes(family, area, multiple=pipeline.vae_scale_factor * 2)
    log.info("Model loaded successfully")
    return Loaded(pipeline, family, sizes, _defaults(settings, serving, family), device)


def _defaults(settings: Settings, serving: dict[str, Any], family: Family) -> Defaults:
    def first(*values: Any) -> Any:
        return next(value for value in values if value is not None)

    return Defaults(
        num_inference_steps=first(
            settings.default_steps, serving.get("num_inference_steps"), family.num_inference_steps
        ),
        true_cfg_scale=first(settings.default_true_cfg_scale, serving.get("true_cfg_scale"), TRUE_CFG_SCALE),
        negative_prompt=first(settings.default_negative_prompt, serving.get("negative_prompt"), NEGATIVE_PROMPT),
    )


def _pipeline(folder: Path, settings: Settings, device: torch.device) -> Any:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    balanced = settings.device_map == "balanced" and device.type == "cuda"
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, device_map="balanced" if balanced else None
        )
    except torch.OutOfMemoryError:
        raise LoadError(f"QWEN_MODEL_DIR={folder}: the model does not fit the memory of {device}") from None
    except Exception as error:  # missing or damaged files surface as almost anything
        log.exception("the checkpoint could not be loaded")
        reason = str(error).strip().splitlines()
        raise LoadError(f"QWEN_MODEL_DIR={folder}: {reason[0] if reason else type(error).__name__}") from None
    return pipeline if balanced else pipeline.to(device)


def instance_device(kind: str, device_id: str) -> torch.device:
    """The device of a Triton instance, from `model_instance_kind` and `model_instance_device_id`."""
    if kind == "GPU":
        return torch.device("cuda", int(device_id))
    if kind == "MODEL" and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
