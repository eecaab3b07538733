"""The model's settings: environment and config.pbtxt parameters → one frozen dataclass.

This file imports nothing heavy: model.py reads TORCH_THREADS from here before torch is imported.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEVICE_MAPS = ("cuda", "balanced", "cpu")
VL_POSITIONS = ("mrope", "diffusers")
DTYPES = ("auto", "bfloat16", "float16", "float32")
# Names of diffusers' attention dispatcher, without the underscore that some of them begin with.
ATTENTION_BACKENDS = ("native", "native_cudnn", "native_flash", "native_efficient", "native_math", "flash",
                      "flash_varlen", "flash_3", "flash_3_hub", "sage", "xformers")  # fmt: skip
QUANTIZATIONS = ("none", "fp8", "int8", "nf4")
OFFLOADS = ("none", "model", "group")
PRESETS = ("lightning-4", "lightning-8")
MAX_SEED = 2**63 - 1


class SettingsError(Exception):
    """A setting with a value that is not allowed; the message names the setting, the value and what is allowed."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    input_pixels: int = 50_000_000  # of one picture
    references: int = 3
    side: int = 2048  # pixels
    pixels: int = 1536 * 1536  # of the output
    steps: int = 100


@dataclass(frozen=True)
class Adapter:
    """A LoRA file, or a folder with one, and how much of it is added."""

    path: str
    weight: float


@dataclass(frozen=True)
class Loading:
    """How the checkpoint is put into memory and made fast."""

    dtype: str = "auto"
    attention_backend: str = "native"
    compile: bool = False
    quantization: str = "none"  # of the transformer
    text_encoder_quantization: str = "none"
    offload: str = "none"
    vae_tiling: bool = False
    adapters: tuple[Adapter, ...] = ()
    fuse_adapters: bool = True
    scheduler_config: tuple[tuple[str, Any], ...] = ()  # merged into the checkpoint's
    preset: str = ""


@dataclass(frozen=True)
class Settings:
    model_dir: str
    device_map: str  # empty: this instance's device
    loading: Loading
    limits: Limits
    max_jobs: int
    default_steps: int | None  # None: the checkpoint's serving.json, else the family's
    default_true_cfg_scale: float | None
    default_negative_prompt: str | None
    reference_area: int | None  # pixels; None: the checkpoint's serving.json, else the family's
    max_batch_tokens: int  # of one forward: image, reference and text tokens of all rows
    unpadded_row_tokens: int  # rows of so many image tokens share a forward only with texts of equal length
    conditioning_cache_mb: int | None  # None: by device
    vl_positions: str
    torch_threads: int
    control_dir: str  # through which supervisor and instances talk; empty: one of this server's own
    log_level: str

    def cache_bytes(self, *, on_gpu: bool) -> int:
        megabytes = self.conditioning_cache_mb
        return (megabytes if megabytes is not None else 2048 if on_gpu else 256) * 2**20

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, parameters: Mapping[str, str] | None = None
    ) -> Self:
        """`parameters` are config.pbtxt's; the environment wins over them."""
        source = Source({**(parameters or {}), **{name: text for name, text in environ.items() if text.strip()}})
        return cls(
            model_dir=source.text("QWEN_MODEL_DIR"),
            device_map=source.choice("DEVICE_MAP", "", DEVICE_MAPS),
            loading=Loading(
                dtype=source.choice("TORCH_DTYPE", Loading.dtype, DTYPES),
                attention_backend=source.choice("ATTENTION_BACKEND", Loading.attention_backend, ATTENTION_BACKENDS),
                compile=source.boolean("COMPILE", Loading.compile),
                quantization=source.choice("QUANTIZATION", Loading.quantization, QUANTIZATIONS),
                text_encoder_quantization=source.choice(
                    "TEXT_ENCODER_QUANTIZATION", Loading.text_encoder_quantization, QUANTIZATIONS
                ),
                offload=source.choice("OFFLOAD", Loading.offload, OFFLOADS),
                vae_tiling=source.boolean("VAE_TILING", Loading.vae_tiling),
                adapters=_adapters(source.text("LORA")),
                fuse_adapters=source.boolean("LORA_FUSED", Loading.fuse_adapters),
                scheduler_config=_scheduler_config(source.text("SCHEDULER_CONFIG")),
                preset=source.choice("PRESET", Loading.preset, PRESETS),
            ),
            limits=Limits(
                input_pixels=source.integer("MAX_INPUT_PIXELS", Limits.input_pixels, 1, 2**31),
                references=source.integer("MAX_REFERENCES", Limits.references, 1, 16),
                side=source.integer("MAX_SIDE", Limits.side, 64, 2**16),
                pixels=source.integer("MAX_PIXELS", Limits.pixels, 64 * 64, 2**31),
                steps=source.integer("MAX_STEPS", Limits.steps, 2, 1000),
            ),
            max_jobs=source.integer("MAX_JOBS", 64, 1, 100_000),
            default_steps=source.optional_integer("DEFAULT_STEPS", 2, 1000),
            default_true_cfg_scale=source.optional_number("DEFAULT_TRUE_CFG_SCALE", 0.0, 20.0),
            default_negative_prompt=source.raw("DEFAULT_NEGATIVE_PROMPT"),
            reference_area=source.optional_integer("REFERENCE_AREA", 64 * 64, 2**24),
            max_batch_tokens=source.integer("MAX_BATCH_TOKENS", 16_384, 1, 2**31),
            unpadded_row_tokens=source.integer("UNPADDED_ROW_TOKENS", 4096, 0, 2**31),
            conditioning_cache_mb=source.optional_integer("CONDITIONING_CACHE_MB", 0, 2**20),
            vl_positions=source.choice("VL_POSITIONS", "mrope", VL_POSITIONS),
            torch_threads=source.integer("TORCH_THREADS", max(1, (os.cpu_count() or 2) - 1), 1, 1024),
            control_dir=source.text("CONTROL_DIR"),
            log_level=source.choice("LOG_LEVEL", "INFO", LOG_LEVELS),
        )


class Source:
    """Named texts, cast on reading."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def raw(self, name: str) -> str | None:
        return self._values.get(name)

    def text(self, name: str) -> str:
        return self._values.get(name, "").strip()

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.optional_integer(name, low, high)
        return default if value is None else value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        text = self.text(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise SettingsError(f"{name}={text!r}: a whole number from {low} to {high} is allowed")
        return int(text)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        text = self.text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise SettingsError(f"{name}={text!r}: a number from {low:g} to {high:g} is allowed")
        return value

    def boolean(self, name: str, default: bool) -> bool:
        text = self.text(name).lower()
        if text in ("", "true", "1", "false", "0"):
            return text in ("true", "1") if text else default
        raise SettingsError(f"{name}={self.text(name)!r}: true or false is allowed")

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name)
        if not text:
            return default
        for word in allowed:
            if text.lower() == word.lower():
                return word
        raise SettingsError(f"{name}={text!r}: one of {', '.join(allowed)} is allowed")


def _adapters(text: str) -> tuple[Adapter, ...]:
    """`PATH[:WEIGHT]`, several with commas between them."""
    return tuple(_adapter(part.strip()) for part in text.split(",") if part.strip())


def _adapter(text: str) -> Adapter:
    path, colon, weight = text.rpartition(":")
    if not colon:
        return Adapter(text, 1.0)
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not path or not math.isfinite(number):
        raise SettingsError(f"LORA={text!r}: PATH or PATH:WEIGHT is allowed, the weight a number")
    return Adapter(path, number)


def _scheduler_config(text: str) -> tuple[tuple[str, Any], ...]:
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise SettingsError(f"SCHEDULER_CONFIG={text!r}: a JSON object is allowed")
    return tuple(values.items())
