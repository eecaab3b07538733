"""The shim's settings: environment → one frozen dataclass, whose fields declare variable, cast and default."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import urlsplit

MIB = 2**20
SUPERVISOR_PORT = 8013
TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")

Cast = Callable[[str], Any]


class SettingsError(ValueError):
    """A variable's value is not allowed; the message names the variable, the value and what is allowed."""


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    word = value.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)} is allowed")


def integer(low: int, high: int) -> Cast:
    def cast(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", value) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high} is allowed")
        return int(value)

    return cast


def number(low: float, high: float) -> Cast:
    def cast(value: str) -> float:
        parsed = float(value) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else math.nan
        if not low <= parsed <= high:
            raise ValueError(f"a number from {low:g} to {high:g} is allowed")
        return parsed

    return cast


def choice(*allowed: str) -> Cast:
    def cast(value: str) -> str:
        for word in allowed:
            if value.lower() == word.lower():
                return word
        raise ValueError(f"one of {', '.join(allowed)} is allowed")

    return cast


def url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("http://HOST:PORT or https://HOST:PORT is allowed")
    return value.rstrip("/")


def origins(value: str) -> tuple[str, ...]:
    listed = tuple(origin.strip() for origin in value.split(",") if origin.strip())
    if not all(re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^\s/]+", origin) for origin in listed):
        raise ValueError("* or a comma list of origins such as https://example.org is allowed")
    return listed


def hosts(value: str) -> tuple[str, ...]:
    listed = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    if not all(re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", host) for host in listed):
        raise ValueError("a comma list of HOST or HOST:PORT is allowed")
    return listed


def setting(variable: str, cast: Cast, default: Any, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"variable": variable, "cast": cast, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class Settings:
    api_key: str = setting("API_KEY", text, "", secret=True)
    host: str = setting("HOST", text, "127.0.0.1")
    port: int = setting("PORT", integer(1, 65535), 8000)
    triton_url: str = setting("TRITON_URL", url, "http://127.0.0.1:8010")
    health_url: str = setting("HEALTH_URL", url, "")
    model_dir: str = setting("QWEN_MODEL_DIR", text, "")
    model_id: str = setting("MODEL_ID", text, "")
    max_body_bytes: int = setting("MAX_BODY_BYTES", integer(1, 2**40), 100 * MIB)
    max_input_pixels: int = setting("MAX_INPUT_PIXELS", integer(1, 10**9), 50_000_000)
    max_references: int = setting("MAX_REFERENCES", integer(1, 16), 3)
    max_side: int = setting("MAX_SIDE", integer(64, 16_384), 2048)
    max_pixels: int = setting("MAX_PIXELS", integer(64 * 64, 16_384**2), 1536 * 1536)
    max_steps: int = setting("MAX_STEPS", integer(2, 1000), 100)
    max_outputs_per_request: int = setting("MAX_OUTPUTS_PER_REQUEST", integer(1, 160), 16)
    max_jobs_per_request: int = setting("MAX_JOBS_PER_REQUEST", integer(1, 160), 4)
    segment_steps: int = setting("SEGMENT_STEPS", integer(0, 1000), 10)  # 0: an edit is one piece
    request_timeout_seconds: float = setting("REQUEST_TIMEOUT_SECONDS", number(1, 86_400), 290.0)
    body_timeout_seconds: float = setting("BODY_TIMEOUT_SECONDS", number(1, 86_400), 60.0)
    drain_seconds: float = setting("DRAIN_SECONDS", number(0, 86_400), 60.0)
    allowed_image_hosts: tuple[str, ...] = setting("ALLOWED_IMAGE_HOSTS", hosts, ())
    cors_origins: tuple[str, ...] = setting("CORS_ORIGINS", origins, ())
    log_level: str = setting("LOG_LEVEL", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO")
    log_prompts: bool = setting("LOG_PROMPTS", boolean, True)
    log_format: str = setting("LOG_FORMAT", choice("text", "json"), "text")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(**{declared.name: _read(environ, declared) for declared in fields(cls)})

    @property
    def asked_health_url(self) -> str:
        """What tells whether a healthy Triton is there: by default the supervisor beside TRITON_URL's."""
        if self.health_url:
            return self.health_url
        triton = urlsplit(self.triton_url)
        host = f"[{triton.hostname}]" if ":" in (triton.hostname or "") else triton.hostname
        return f"{triton.scheme}://{host}:{SUPERVISOR_PORT}/healthz"

    @property
    def served_model(self) -> str:
        return self.model_id or PurePosixPath(self.model_dir).name or "qwen-image-edit"


def _read(environ: Mapping[str, str], declared: Field[Any]) -> Any:
    """The variable's value; an empty one counts as unset, as compose files pass `${NAME:-}`."""
    variable, cast, secret = (declared.metadata[key] for key in ("variable", "cast", "secret"))
    value = environ.get(variable, "") if secret else environ.get(variable, "").strip()
    if not value:
        return declared.default
    try:
        return cast(value)
    except ValueError as error:
        raise SettingsError(f"{variable}={value!r}: {error}") from None
