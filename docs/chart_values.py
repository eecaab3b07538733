"""The values of the Helm chart: their table, and the settings that its schema knows by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from standalone.settings_grammar import Setting

CHART = Path(__file__).resolve().parents[1] / "charts" / "qwen-image-edit"
SCHEMA = CHART / "values.schema.json"
# What the chart says itself, and what is right in a container only as it is.
NOT_SETTINGS = {
    "ALLOW_NO_AUTH", "API_KEY", "API_KEY_FILE", "BALANCER_PORT", "CONTROL_DIR", "DRAIN_SECONDS", "HEALTH_URL", "HOST",
    "MODEL_REPOSITORY", "ONE_SERVER_PER_GPU", "PORT", "QWEN_MODEL_DIR", "REQUEST_TIMEOUT_SECONDS", "SUPERVISOR_PORT",
    "TRITON_ADDRESS", "TRITON_GRPC_PORT", "TRITON_HTTP_PORT", "TRITON_METRICS_PORT", "TRITON_URL",
}  # fmt: skip


def schema(settings: Mapping[str, Iterable[Setting[Any]]]) -> str:
    """values.schema.json with the settings of `triton` and `shim`."""
    written: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    for part, each in settings.items():
        written["properties"][part]["properties"]["settings"]["properties"] = {
            one.name: {"type": ["string", "number", "boolean"]}
            for one in sorted(each, key=lambda one: one.name)
            if one.name not in NOT_SETTINGS
        }
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def rows() -> Iterator[tuple[str, ...]]:
    """Name, default and meaning of every value."""
    yield "value", "default", "meaning"
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    yield from _rows(json.loads(SCHEMA.read_text("utf-8"))["properties"], defaults, "")


def _rows(properties: dict[str, Any], defaults: dict[str, Any], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, described in properties.items():
        if name == "global":
            continue
        default = defaults.get(name)
        if described.get("properties") and name != "settings":
            yield f"`{prefix}{name}`", "", described["description"]
            yield from _rows(described["properties"], default or {}, f"{prefix}{name}.")
        else:
            shown = json.dumps(default) if default not in (None, "") else ""
            yield f"`{prefix}{name}`", f"`{shown}`" if shown else "–", described["description"]
