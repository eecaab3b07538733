"""Triton's perf_analyzer with a file of edits, at Triton itself: make test-clients"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Service
from tests.kit.servers import PROJECT, environment
from tests.kit.tensors import MODEL
from tests.kit.wire import save, tee

Analyze = Callable[..., str]


@pytest.fixture
def analyze(small: Path, tmp_path: Path, tool: Callable[..., Path]) -> Analyze:
    """Two edits of the file that docs/clients.md shows, with another size, at an address; what it printed."""
    picture = (small / "photo.jpg").read_bytes()
    counted = base64.b64encode(len(picture).to_bytes(4, "little") + picture).decode()
    shown = re.findall(r"^```json\n(.*?)^```", (PROJECT / "docs/clients.md").read_text(), re.MULTILINE | re.DOTALL)
    file = shown[0].replace("BASE64", counted)

    def analyze(address: str, *options: str, size: str = "[64, 64]") -> str:
        (tmp_path / "edits.json").write_text(file.replace("[64, 64]", size))
        program = tool("perf_analyzer", "perf_analyzer")
        command: list[str | Path] = [
            program,
            "-m",
            MODEL,
            "-u",
            address,
            "--input-data",
            tmp_path / "edits.json",
            *options,
        ]
        env = environment(LD_LIBRARY_PATH=str(program.parent))
        done = subprocess.run(
            [*command, "--request-count", "2"], env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr

    return analyze


def test_edits_over_http_are_measured_and_a_refusal_says_why(service: Service, analyze: Analyze) -> None:
    with tee(service.triton_http) as front:
        measured = analyze(front.address)
        refused = analyze(front.address, size="[12, 12]")
        edits = [sent for sent in front.exchanges if sent.method == "POST"]
    assert "Request count: 2" in measured
    assert "invalid: size: 12x12: 64 to 2048 pixels a side are allowed" in refused
    save("perf_analyzer", edits, "edit", None, "refused")


def test_edits_over_grpc_are_measured(service: Service, analyze: Analyze) -> None:
    assert "Request count: 2" in analyze(service.triton_grpc, "-i", "grpc")


def test_requests_of_two_edits_are_measured(service: Service, analyze: Analyze) -> None:
    for where in ((service.triton_http,), (service.triton_grpc, "-i", "grpc")):
        measured = analyze(*where, "-b", "2")
        assert "Batch size: 2" in measured
        assert "Request count: 2" in measured
