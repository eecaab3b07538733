"""What docker-compose.yml says of a service, its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.kit.servers import PROJECT

INTERPOLATION = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")
COMPOSE_FILE = PROJECT / "docker-compose.yml"
Service = dict[str, Any]


def interpolate(text: str, environ: Mapping[str, str] = {}) -> str:
    return INTERPOLATION.sub(lambda match: environ.get(match[1]) or match[2] or "", text)


def compose_services() -> dict[str, Service]:
    loaded: dict[str, Service] = yaml.safe_load(COMPOSE_FILE.read_text("utf-8"))["services"]
    return loaded


def environment_of(service: Service, environ: Mapping[str, str]) -> dict[str, str]:
    """The container's variables: one without a value is passed on from `environ`, or stays unset."""
    given = {name: environ.get(name) if value is None else value for name, value in service["environment"].items()}
    return {name: interpolate(value, environ) for name, value in given.items() if value is not None}
