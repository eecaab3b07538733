"""What an engine is, for the labels of metrics that tell nothing else."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import PurePosixPath

from qwen_edit.loading.checkpoint import Checkpoint
from qwen_edit.settings import Settings

VERSION = "2.1.0"  # of everything in this repository, whose shim/health.py says it too


def identity(settings: Settings, checkpoint: Checkpoint, device: str) -> dict[str, dict[str, str]]:
    """Labels by the metric's name."""
    loading = settings.loading
    return {
        "build_info": {
            "version": VERSION,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "diffusers", "transformers")},
        },
        "model_info": {
            "model": PurePosixPath(settings.model_dir).name,
            "pipeline": checkpoint.family.pipeline,
            "device": device,
            "dtype": loading.dtype,
            "quantization": loading.quantization,
            "text_encoder_quantization": loading.text_encoder_quantization,
        },
    }
