"""The Helm chart, rendered."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.kit.servers import PROJECT

CHART = PROJECT / "charts" / "qwen-image-edit"
LEAST = ("weights.claim=weights", "shim.existingSecret=keys")
ALL = (
    *LEAST, "autoscaling.enabled=true", "monitoring.podMonitor=true", "monitoring.rules=true",
    "monitoring.dashboard=true",
)  # fmt: skip
Manifest = dict[str, Any]


class Helm:
    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self, verb: str, *values: str) -> subprocess.CompletedProcess[str]:
        """`values` are `NAME=VALUE`, as after --set."""
        name = ["edits"] if verb == "template" else ["--strict"]
        sets = [word for value in values for word in ("--set", value)]
        command = [str(self._program), verb, *name, str(CHART), "--namespace", "prod", *sets]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def render(self, *values: str) -> list[Manifest]:
        done = self.run("template", *values)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(manifests: list[Manifest], kind: str, ends: str = "") -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(ends)]
    return found


def pod_of(manifests: list[Manifest], part: str) -> Manifest:
    pod: Manifest = one(manifests, "Deployment", part)["spec"]["template"]["spec"]
    return pod


def environment_of(container: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}
