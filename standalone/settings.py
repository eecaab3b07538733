"""The launcher's settings: environment → one frozen dataclass."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from standalone.errors import LaunchError
from standalone.processes import PROJECT

PORTS_APART = 10  # between the servers of one machine
TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEVICE_MAPS = ("cuda", "balanced", "cpu")


@dataclass(frozen=True)
class Settings:
    model_repository: Path
    model_dir: str  # a folder or a Hub id; empty: the demo checkpoint
    device_map: str  # empty: chosen from the CUDA devices found
    one_server_per_gpu: bool
    host: str
    port: int
    triton_address: str
    triton_http_port: int
    triton_grpc_port: int
    triton_metrics_port: int
    supervisor_port: int
    balancer_port: int
    api_key: str
    log_level: str
    max_body_bytes: int
    worker_stall_seconds: float
    max_failures: int
    failure_window_minutes: int
    drain_seconds: float

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            model_repository=_folder(environ, "MODEL_REPOSITORY", PROJECT / "model_repository"),
            model_dir=environ.get("QWEN_MODEL_DIR", "").strip(),
            device_map=_choice(environ, "DEVICE_MAP", "", DEVICE_MAPS),
            one_server_per_gpu=_boolean(environ, "ONE_SERVER_PER_GPU", False),
            host=environ.get("HOST", "").strip() or "127.0.0.1",
            port=_port(environ, "PORT", 8000),
            triton_address=environ.get("TRITON_ADDRESS", "").strip() or "127.0.0.1",
            triton_http_port=_port(environ, "TRITON_HTTP_PORT", 8010),
            triton_grpc_port=_port(environ, "TRITON_GRPC_PORT", 8011),
            triton_metrics_port=_port(environ, "TRITON_METRICS_PORT", 8012),
            supervisor_port=_port(environ, "SUPERVISOR_PORT", 8013),
            balancer_port=_port(environ, "BALANCER_PORT", 8009),
            api_key=environ.get("API_KEY", ""),
            log_level=_choice(environ, "LOG_LEVEL", "INFO", LOG_LEVELS),
            max_body_bytes=_integer(environ, "MAX_BODY_BYTES", 100 * 2**20, 1, 2**40),
            worker_stall_seconds=_number(environ, "WORKER_STALL_SECONDS", 60.0, 1.0, 86_400.0),
            max_failures=_integer(environ, "MAX_FAILURES", 5, 1, 1_000_000),
            failure_window_minutes=_integer(environ, "FAILURE_WINDOW_MINUTES", 30, 1, 10_000),
            drain_seconds=_number(environ, "DRAIN_SECONDS", 60.0, 0.0, 86_400.0),
        )

    @property
    def server_ports(self) -> dict[str, int]:
        """Of one supervised tritonserver."""
        return {
            "TRITON_HTTP_PORT": self.triton_http_port,
            "TRITON_GRPC_PORT": self.triton_grpc_port,
            "TRITON_METRICS_PORT": self.triton_metrics_port,
            "SUPERVISOR_PORT": self.supervisor_port,
        }

    @property
    def triton_url(self) -> str:
        """As seen from this machine."""
        return f"http://{url_host(self.triton_address)}:{self.triton_http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{url_host(self.triton_address)}:{self.triton_metrics_port}/metrics"

    @property
    def health_url(self) -> str:
        return f"http://{url_host(self.triton_address)}:{self.supervisor_port}/healthz"

    @property
    def shim_url(self) -> str:
        return f"http://{url_host(self.host)}:{self.port}"

    def of_server(self, number: int) -> Self:
        """The settings of one of several servers, whose ports lie apart; `number` counts from 0."""
        apart = number * PORTS_APART
        return replace(
            self,
            triton_http_port=self.triton_http_port + apart,
            triton_grpc_port=self.triton_grpc_port + apart,
            triton_metrics_port=self.triton_metrics_port + apart,
            supervisor_port=self.supervisor_port + apart,
        )


def url_host(address: str) -> str:
    """The host of a URL by which this machine reaches what listens on `address`."""
    host = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    return f"[{host}]" if ":" in host else host


def _boolean(environ: Mapping[str, str], name: str, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in TRUE_WORDS + FALSE_WORDS:
        raise LaunchError(f"{name}={text!r}: one of {', '.join(TRUE_WORDS + FALSE_WORDS)} is allowed")
    return text in TRUE_WORDS


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    value = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else float("nan")
    if not low <= value <= high:
        raise LaunchError(f"{name}={text!r}: a number from {low:g} to {high:g} is allowed")
    return value


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
