from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.chart import ALL, Helm, Manifest
from tests.kit.servers import PROJECT


@pytest.fixture(scope="session")
def helm(tool: Callable[..., Path]) -> Helm:
    return Helm(tool("helm", "helm", "helm"))


@pytest.fixture(scope="session")
def everything(helm: Helm) -> list[Manifest]:
    """The manifests with all that is optional."""
    return helm.render(*ALL)


@pytest.fixture(scope="session")
def schema_faults(tool: Callable[..., Path]) -> Callable[[list[Manifest]], list[str]]:
    """What the schemas of Kubernetes, KEDA and the Prometheus operator find: a line for each."""
    python = tool("kubernetes", "bin", "python")

    def schema_faults(manifests: list[Manifest]) -> list[str]:
        checked = subprocess.run(
            [python, PROJECT / "tests" / "kit" / "kubernetes_schemas.py"], input=json.dumps(manifests), text=True,
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stderr
        return checked.stdout.splitlines()

    return schema_faults


@pytest.fixture(scope="session")
def promtool(tool: Callable[..., Path]) -> Callable[..., str]:
    program = tool("prometheus", "usr", "bin", "promtool")

    def promtool(*arguments: str | Path) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return promtool
