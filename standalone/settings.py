"""The launcher's settings: environment → one frozen dataclass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from standalone.errors import LaunchError

PROJECT = Path(__file__).resolve().parents[1]
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEVICE_MAPS = ("cuda", "balanced", "cpu")


@dataclass(frozen=True)
class Settings:
    model_repository: Path
    model_dir: str  # a folder or a Hub id; empty: the demo checkpoint
    device_map: str  # empty: chosen from the CUDA devices found
    host: str
    port: int
    triton_http_port: int
    triton_grpc_port: int
    triton_metrics_port: int
    api_key: str
    log_level: str
    max_body_bytes: int

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            model_repository=_folder(environ, "MODEL_REPOSITORY", PROJECT / "model_repository"),
            model_dir=environ.get("QWEN_MODEL_DIR", "").strip(),
            device_map=_choice(environ, "DEVICE_MAP", "", DEVICE_MAPS),
            host=environ.get("HOST", "").strip() or "127.0.0.1",
            port=_port(environ, "PORT", 8000),
            triton_http_port=_port(environ, "TRITON_HTTP_PORT", 8010),
            triton_grpc_port=_port(environ, "TRITON_GRPC_PORT", 8011),
            triton_metrics_port=_port(environ, "TRITON_METRICS_PORT", 8012),
            api_key=environ.get("API_KEY", ""),
            log_level=_choice(environ, "LOG_LEVEL", "INFO", LOG_LEVELS),
            max_body_bytes=_integer(environ, "MAX_BODY_BYTES", 100 * 2**20, 1, 2**40),
        )

    @property
    def ports(self) -> dict[str, int]:
        return {
            "PORT": self.port,
            "TRITON_HTTP_PORT": self.triton_http_port,
            "TRITON_GRPC_PORT": self.triton_grpc_port,
            "TRITON_METRICS_PORT": self.triton_metrics_port,
        }


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise LaunchError(f"{name}={text!r}: a whole number from {low} to {high} is allowed")
    return int(text)


def _folder(environ: Mapping[str, str], name: str, default: Path) -> Path:
    path = Path(environ.get(name, "").strip() or default).expanduser()
    if not path.is_dir():
        raise LaunchError(f"{name}={path}: there is no such folder")
    return path.resolve()


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    return _integer(environ, name, default, 1, 65535)


def _choice(environ: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    text = environ.get(name, "").strip()
    if not text:
        return default
    for word in allowed:
        if text.lower() == word.lower():
            return word
    raise LaunchError(f"{name}={text!r}: one of {', '.join(allowed)} is allowed")
