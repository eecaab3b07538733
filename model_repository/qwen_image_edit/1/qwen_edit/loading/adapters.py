"""LoRA adapters: loaded, weighed, and where wanted added into the weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen_edit.loading.checkpoint import LoadError
from qwen_edit.settings import Adapter


def add(pipeline: Any, adapters: Sequence[Adapter], *, fuse: bool) -> None:
    """Adds the adapters to the transformer; raises LoadError. Fused ones cost nothing at run time."""
    if not adapters:
        return
    names = [f"lora_{number}" for number, _ in enumerate(adapters)]
    for name, adapter in zip(names, adapters, strict=True):
        _load(pipeline, name, adapter)
    pipeline.set_adapters(names, [adapter.weight for adapter in adapters])
    if fuse:
        pipeline.fuse_lora(components=["transformer"], adapter_names=names)
        pipeline.unload_lora_weights()


def _load(pipeline: Any, name: str, adapter: Adapter) -> None:
    file = _file(adapter)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are meant
            pipeline.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
    except Exception as error:  # damaged and foreign files surface as almost anything
        reason = str(error).strip().splitlines()
        raise LoadError(f"LORA={adapter.path}: {reason[0] if reason else type(error).__name__}") from None
    if name not in getattr(pipeline.transformer, "peft_config", {}):
        raise LoadError(f"LORA={adapter.path}: none of its tensors is for this transformer")


def _file(adapter: Adapter) -> Path:
    path = Path(adapter.path).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise LoadError(f"LORA={adapter.path}: {len(files)} .safetensors files there; name one of them")
        return files[0]
    if not path.is_file():
        raise LoadError(f"LORA={adapter.path}: there is no such file or folder")
    if path.suffix != ".safetensors":  # of any other, diffusers unpickles what it finds
        raise LoadError(f"LORA={adapter.path}: a .safetensors file is needed")
    return path
