"""The shim's settings: environment → one frozen dataclass."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from shim.settings_grammar import Cast, boolean, choice, integer, number, read, setting, text, verbatim

SUPERVISOR_PORT = 8013
MOST_REFERENCES = 16


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError
    return value.rstrip("/")


def _listed(value: str, pattern: str) -> tuple[str, ...]:
    listed = tuple(each.strip() for each in value.split(",") if each.strip())
    if not all(re.fullmatch(pattern, each) for each in listed):
        raise ValueError
    return listed


def _origins(value: str) -> tuple[str, ...]:
    return _listed(value, r"\*|[a-z][a-z0-9+.-]*://[^\s/]+")


def _hosts(value: str) -> tuple[str, ...]:
    return _listed(value.lower(), r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def _names(value: str) -> tuple[str, ...]:
    return _listed(value.lower(), r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


URL = Cast("http://HOST:PORT or https://HOST:PORT", _url)
ORIGINS = Cast("* or a comma list of origins such as https://example.org", _origins)
HOSTS = Cast("a comma list of HOST or HOST:PORT", _hosts)
NAMES = Cast("a comma list of host names without ports", _names)


@dataclass(frozen=True, kw_only=True)
class Settings:
    api_key: str = setting(
        "API_KEY",
        verbatim,
        "",
        "The key that clients have to send, as Bearer, Basic or `api-key` header. Empty: no authentication.",
        secret=True,
    )
    api_key_file: str = setting(
        "API_KEY_FILE",
        text,
        "",
        "A file of further keys, a line `NAME: KEY` for each; a name may have several. It is read again when it "
        "changes, and the name is what logs and metrics tell.",
    )
    host: str = setting(
        "HOST",
        text,
        "127.0.0.1",
        "Address on which the shim listens: 0.0.0.0 in the container, where `HOST_ADDRESS` decides who can reach it.",
    )
    port: int = setting("PORT", integer(1, 65535), 8000, "Port of the shim.")
    triton_url: str = setting(
        "TRITON_URL",
        URL,
        "http://127.0.0.1:8010",
        "Triton, or a load balancer in front of several. Set by the launcher and by docker-compose.yml.",
    )
    health_url: str = setting(
        "HEALTH_URL",
        URL,
        "",
        "What `/ready` asks: a supervisor's or balancer's `/healthz`. Set by the launcher and by docker-compose.yml. "
        "Empty: `/healthz` on port 8013 of `TRITON_URL`'s host. In front of a Triton without a supervisor, set it to "
        "http://HOST:PORT/v2/models/qwen_image_edit/ready.",
    )
    model_dir: str = setting(
        "QWEN_MODEL_DIR",
        text,
        "",
        "The checkpoint: a folder with a `model_index.json`, or a Hub id. Containers take an absolute path only. "
        "Empty: `make serve` serves the demo checkpoint.",
    )
    model_id: str = setting(
        "MODEL_ID", text, "", "The model's name in `/v1/models`. Empty: the base name of `QWEN_MODEL_DIR`."
    )
    max_body_bytes: int = setting(
        "MAX_BODY_BYTES",
        integer(1, 2**40),
        100 * 2**20,
        "Bytes of the largest HTTP request body. Triton's own limit is set 16 MiB higher.",
    )
    max_input_pixels: int = setting(
        "MAX_INPUT_PIXELS",
        integer(1, 10**9),
        2**25,
        "Most pixels that an input picture may have. A JPEG may have twice as many.",
    )
    max_references: int | None = setting(
        "MAX_REFERENCES",
        integer(1, MOST_REFERENCES),
        None,
        "Most reference pictures that an edit may have. Empty: as many as the checkpoint takes, at most 3, or of "
        "Qwen-Image-2.1 at most 10 and so many that they fit twice into `PREFIX_CACHE_MB`.",
    )
    max_side: int = setting("MAX_SIDE", integer(64, 16_384), 2048, "Longest side of an output, in pixels.")
    max_pixels: int = setting(
        "MAX_PIXELS", integer(64 * 64, 16_384**2), 1536 * 1536, "Most pixels that an output may have."
    )
    max_steps: int = setting("MAX_STEPS", integer(2, 1000), 100, "Most denoising steps that an edit may ask for.")
    max_outputs_per_request: int = setting(
        "MAX_OUTPUTS_PER_REQUEST", integer(1, 160), 16, "Most outputs of one request: pictures × `n`."
    )
    max_jobs_per_request: int = setting(
        "MAX_JOBS_PER_REQUEST", integer(1, 160), 4, "How many edits of one request are with Triton at a time."
    )
    quality_presets: bool = setting(
        "QUALITY_PRESETS",
        boolean,
        False,
        "true: the field `quality` chooses steps and step cache of an edit that does not name them, by the table in "
        "docs/api.md. false: it changes nothing.",
    )
    segment_steps: int = setting(
        "SEGMENT_STEPS",
        integer(0, 1000),
        10,
        "Steps per call to Triton: the most that is lost when a client leaves or a server dies. 0: one call per edit.",
    )
    request_timeout_seconds: float = setting(
        "REQUEST_TIMEOUT_SECONDS",
        number(1, 86_400),
        290.0,
        "How long a request may take. Node's fetch gives up after 300 seconds.",
    )
    body_timeout_seconds: float = setting(
        "BODY_TIMEOUT_SECONDS",
        number(1, 86_400),
        60.0,
        "How long a request's body may be waited for; every 64 KiB that come give a second of it back. 10 seconds "
        "without a byte end it too.",
    )
    drain_seconds: float | None = setting(
        "DRAIN_SECONDS",
        number(0, 86_400),
        None,
        "How long edits in progress may take to finish after SIGTERM. Empty: 60 for a Triton, whose edits go on "
        "elsewhere, and for the shim, whose edits end with it, 10 more than `REQUEST_TIMEOUT_SECONDS`. "
        "`stop_grace_period` in docker-compose.yml has to be longer. Under `make serve` they get 2 seconds.",
    )
    allowed_image_hosts: tuple[str, ...] = setting(
        "ALLOWED_IMAGE_HOSTS",
        HOSTS,
        (),
        "Hosts from which pictures are fetched that a request names by an http(s) URL, each with or without a port "
        "(then the scheme's own). Only public addresses are connected to. Empty: none; only `data:` URLs are taken.",
    )
    cors_origins: tuple[str, ...] = setting(
        "CORS_ORIGINS", ORIGINS, (), "Origins whose web pages may call the API. Empty: only the shim's own page may."
    )
    allowed_hosts: tuple[str, ...] = setting(
        "ALLOWED_HOSTS",
        NAMES,
        (),
        "Public host names by which the shim may be called where no `API_KEY` is set. IP addresses, names without a "
        "dot and those that end in .internal, .local, .localhost or .svc are always allowed, and so is `HOST`.",
    )
    forwarded_allow_ips: str = setting(
        "FORWARDED_ALLOW_IPS",
        text,
        "127.0.0.1,::1",
        "Addresses and networks of proxies in front, commas between them, whose `X-Forwarded-For`, `-Proto` and "
        "`-Host` are believed; `*`: all. Behind one that is not named all callers are one.",
    )
    log_level: str = setting(
        "LOG_LEVEL",
        choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
        "The least severe messages that are logged.",
    )
    log_prompts: bool = setting(
        "LOG_PROMPTS",
        boolean,
        True,
        "false: only the length of a prompt is logged, not its first 50 characters. Advised wherever others send "
        "theirs: prompts are personal data.",
    )
    log_format: str = setting("LOG_FORMAT", choice("text", "json"), "text", "Format of the shim's log lines.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return read(cls, environ)

    @property
    def asked_health_url(self) -> str:
        """What tells whether a healthy Triton is there: by default the supervisor beside TRITON_URL's."""
        if self.health_url:
            return self.health_url
        triton = urlsplit(self.triton_url)
        host = f"[{triton.hostname}]" if ":" in (triton.hostname or "") else triton.hostname
        return f"{triton.scheme}://{host}:{SUPERVISOR_PORT}/healthz"

    @property
    def most_references(self) -> int:
        """Whatever the model takes is taken here, unless a number is set."""
        return self.max_references or MOST_REFERENCES

    @property
    def drains_for(self) -> float:
        """Seconds: by default what the longest request takes, since its latents and its client are here."""
        return self.request_timeout_seconds + 10 if self.drain_seconds is None else self.drain_seconds

    @property
    def has_keys(self) -> bool:
        return bool(self.api_key or self.api_key_file)

    @property
    def is_open(self) -> bool:
        """Who reaches this machine may edit: no key is asked for, and not only the machine itself is listened to."""
        return not self.has_keys and not _is_loopback(self.host)

    @property
    def served_model(self) -> str:
        return self.model_id or PurePosixPath(self.model_dir).name or "qwen-image-edit"
