"""The model's settings: environment and config.pbtxt parameters → one frozen dataclass.

This file imports nothing heavy: model.py reads TORCH_THREADS from here before torch is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from qwen_edit.settings_grammar import (
    Cast,
    boolean,
    choice,
    decimal,
    group,
    integer,
    number,
    read,
    setting,
    text,
    verbatim,
)

MAX_SEED = 2**63 - 1
MIN_SIDE = 64  # pixels
STEP_CACHES = OFF, MILD = "off", "mild"


@dataclass(frozen=True)
class Adapter:
    """A LoRA file, or a folder with one, and how much of it is added."""

    path: str
    weight: float


def _adapters(value: str) -> tuple[Adapter, ...]:
    return tuple(_adapter(part.strip()) for part in value.split(",") if part.strip())


def _adapter(value: str) -> Adapter:
    path, colon, weight = value.rpartition(":")
    if not colon:
        return Adapter(value, 1.0)
    if not path:
        raise ValueError
    return Adapter(path, decimal(weight))


def _scheduler_config(value: str) -> tuple[tuple[str, Any], ...]:
    changes = json.loads(value)
    if not isinstance(changes, dict):
        raise ValueError
    return tuple(changes.items())


ADAPTERS = Cast("a comma list of PATH or PATH:WEIGHT", _adapters)
JSON_OBJECT = Cast("a JSON object", _scheduler_config)
AUTO: Literal["auto"] = "auto"
AUTO_OR_BOOLEAN = Cast[bool | Literal["auto"]](
    f"auto, or {boolean.allowed}", lambda value: AUTO if value.lower() == AUTO else boolean.parse(value)
)
QUANTIZATION = choice("none", "fp8", "int8", "nf4")


@dataclass(frozen=True)
class Loading:
    """How the checkpoint is put into memory and made fast."""

    dtype: str = setting(
        "TORCH_DTYPE",
        choice("auto", "bfloat16", "float16", "float32"),
        "auto",
        "Type of the weights. `auto`: bfloat16 on a GPU, float32 on the CPU.",
    )
    # Names of diffusers' attention dispatcher, without the underscore that some of them begin with.
    attention_backend: str = setting(
        "ATTENTION_BACKEND",
        choice(
            "native", "native_cudnn", "native_flash", "native_efficient", "native_math", "flash", "flash_varlen",
            "flash_3", "flash_3_hub", "sage", "xformers",
        ),
        "native",
        "Kernel of the transformer's attention. `native`: PyTorch chooses.",
    )  # fmt: skip
    compile: bool | Literal["auto"] = setting(
        "COMPILE",
        AUTO_OR_BOOLEAN,
        AUTO,
        "true: the transformer's blocks are compiled at load, which takes minutes. `auto`: on a GPU, and served as "
        "they are where that fails.",
    )
    quantization: str = setting("QUANTIZATION", QUANTIZATION, "none", "Quantisation of the transformer's weights.")
    text_encoder_quantization: str = setting(
        "TEXT_ENCODER_QUANTIZATION", QUANTIZATION, "none", "Quantisation of the text encoder's weights."
    )
    offload: str = setting(
        "OFFLOAD",
        choice("none", "model", "group"),
        "none",
        "Keeps weights in main memory until the GPU needs them. `model`: transformer and text encoder take turns on "
        "it. `group`: their blocks are moved there one by one.",
    )
    vae_tiling: bool = setting(
        "VAE_TILING",
        boolean,
        False,
        "true: pictures are encoded and decoded in tiles, with blended seams. Large ones then need less memory.",
    )
    adapters: tuple[Adapter, ...] = setting(
        "LORA", ADAPTERS, (), "LoRA adapters, each a file or folder, and how much of it is added: 1 without a weight."
    )
    fuse_adapters: bool = setting(
        "LORA_FUSED",
        boolean,
        True,
        "true: adapters are added into the weights. false: they are kept beside them, which slows every step.",
    )
    scheduler_config: tuple[tuple[str, Any], ...] = setting(
        "SCHEDULER_CONFIG", JSON_OBJECT, (), "Changes to the checkpoint's scheduler configuration."
    )
    preset: str = setting(
        "PRESET",
        choice("lightning-4", "lightning-8"),
        "",
        "Noise levels, steps and guidance of the Lightning adapters. `LORA` has to name the adapter.",
    )


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    input_pixels: int = setting(
        "MAX_INPUT_PIXELS",
        integer(1, 10**9),
        2**25,
        "Most pixels that an input picture may have. A JPEG may have twice as many.",
    )
    references: int | None = setting(
        "MAX_REFERENCES",
        integer(1, 16),
        None,
        "Most reference pictures that an edit may have. Empty: as many as the checkpoint takes, at most 3, or of "
        "Qwen-Image-2.1 at most 10 and so many that they fit twice into `PREFIX_CACHE_MB`.",
    )
    side: int = setting("MAX_SIDE", integer(64, 16_384), 2048, "Longest side of an output, in pixels.")
    pixels: int = setting(
        "MAX_PIXELS", integer(64 * 64, 16_384**2), 1536 * 1536, "Most pixels that an output may have."
    )
    steps: int = setting("MAX_STEPS", integer(2, 1000), 100, "Most denoising steps that an edit may ask for.")


@dataclass(frozen=True)
class Settings:
    model_dir: str = setting(
        "QWEN_MODEL_DIR",
        text,
        "",
        "The checkpoint: a folder with a `model_index.json`, or a Hub id. Containers take an absolute path only. "
        "Empty: `make serve` serves the demo checkpoint.",
    )
    device_map: str = setting(
        "DEVICE_MAP",
        choice("cuda", "balanced", "cpu"),
        "",
        "`balanced`: one pipeline, spread over all GPUs. Empty: one pipeline per GPU, or one on the CPU without a GPU.",
    )
    gpus_per_instance: int = setting(
        "GPUS_PER_INSTANCE", integer(1, 8), 1,
        "GPUs of one instance, each with a transformer, to which the rows of a step are dealt, two of an edit "
        "with guidance. Not together with `OFFLOAD`, `DEVICE_MAP=balanced` or Qwen-Image-2.1.",
    )  # fmt: skip
    log_level: str = setting(
        "LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "The least severe messages that are logged.",
    )
    limits: Limits = group(Limits)
    max_jobs: int = setting(
        "MAX_JOBS",
        integer(1, 100_000),
        64,
        "Most edits, waiting and running, that one instance holds. Further new ones are refused with 429, and so is a "
        "caller that has its share while others are there.",
    )
    stretch: float = setting(
        "STRETCH",
        number(0, 1000),
        3.0,
        "How far an edit lets shorter ones ahead: those that arrive within this many times its own work. 0 and one "
        "caller: first come, first served.",
    )
    default_steps: int | None = setting(
        "DEFAULT_STEPS",
        integer(2, 1000),
        None,
        "Steps of an edit that names none. Empty: those of `PRESET`, else of the checkpoint's `serving.json`, else 50 "
        "for Edit and Layered, 40 for the others.",
    )
    default_true_cfg_scale: float | None = setting(
        "DEFAULT_TRUE_CFG_SCALE",
        number(0, 20),
        None,
        "Guidance of an edit that names none. Empty: `PRESET`'s, else `serving.json`'s, else 4, 1 for Qwen-Image-2.1.",
    )
    default_negative_prompt: str | None = setting(
        "DEFAULT_NEGATIVE_PROMPT",
        verbatim,
        None,
        "Negative prompt of an edit that has none. Empty: the checkpoint's `serving.json`, else one space, as the "
        "model's authors use it, and none for Qwen-Image-2.1.",
    )
    reference_area: int | None = setting(
        "REFERENCE_AREA",
        integer(64 * 64, 2**24),
        None,
        "Pixels to which references are scaled, and the area of the size `auto`. Empty: the checkpoint's "
        "`serving.json`, else 1048576.",
    )
    step_cache: str = setting(
        "STEP_CACHE",
        choice(*STEP_CACHES),
        OFF,
        "`mild`: edits of more than 8 steps make about two thirds of their forwards, and their pictures change a "
        "little, where the request does not say otherwise with `cache`.",
    )
    max_batch_tokens: int = setting(
        "MAX_BATCH_TOKENS",
        integer(1, 2**31),
        16_384,
        "Most image, reference and text tokens of one forward, on each GPU; of Qwen-Image-2.1, which only attends to "
        "references and text, an eighth of these counts. The first edit runs however many it needs.",
    )
    conditioning_cache_mb: int | None = setting(
        "CONDITIONING_CACHE_MB",
        integer(0, 2**20),
        None,
        "Mebibytes of memory for encoded prompts and references, and for masks with their sources. Empty: 2048 on a "
        "GPU, 256 on the CPU.",
    )
    prefix_cache_mb: int | None = setting(
        "PREFIX_CACHE_MB",
        integer(1, 2**24),
        None,
        "Mebibytes for keys and values of Qwen-Image-2.1's prompts and references, half of one for each token. Empty: "
        "on a GPU nine tenths of what is free beside the largest edit, on the CPU a quarter of the main memory.",
    )
    lora_dir: str = setting(
        "LORA_DIR",
        text,
        "",
        "Folder of the LoRA adapters that a request may name with `lora`, each by its file's name without "
        "`.safetensors`. Empty: none.",
    )
    lora_cache_mb: int = setting(
        "LORA_CACHE_MB", integer(1, 2**20), 2048,
        "Mebibytes of each transformer's device for adapters of `LORA_DIR`. What one edit names has to fit.",
    )  # fmt: skip
    vl_positions: str = setting(
        "VL_POSITIONS",
        choice("mrope", "diffusers"),
        "mrope",
        "Positions of the pictures' tokens in the text encoder. `mrope`: as it was trained. `diffusers`: as diffusers "
        "0.42.1 has them.",
    )
    loading: Loading = group(Loading)
    torch_threads: int = setting(
        "TORCH_THREADS",
        integer(1, 1024),
        max(1, (os.cpu_count() or 2) - 1),
        "CPU threads of one instance. Empty: one less than there are cores.",
        computed=True,
    )
    control_dir: str = setting(
        "CONTROL_DIR",
        text,
        "",
        "Folder for the files that tell the engines about drains and cancelled edits. Set by the supervisor.",
    )

    @property
    def prefix_bytes(self) -> int | None:
        return None if self.prefix_cache_mb is None else self.prefix_cache_mb * 2**20

    def cache_bytes(self, *, on_gpu: bool) -> int:
        usual = 2048 if on_gpu else 256
        return (usual if self.conditioning_cache_mb is None else self.conditioning_cache_mb) * 2**20

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, parameters: Mapping[str, str] | None = None
    ) -> Self:
        """`parameters` are config.pbtxt's; the environment wins over them."""
        return read(cls, environ, parameters or {})
