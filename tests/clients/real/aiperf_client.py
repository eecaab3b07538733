"""AIPerf with pictures of a folder and the checkpoint's tokenizer: make test-clients"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import Service
from tests.kit.servers import environment
from tests.kit.wire import Tee, save

Profile = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer(sensitive: Callable[[str], Path]) -> Path:
    return sensitive("plus") / "tokenizer"


@pytest.fixture
def profile(
    service: Service, front: Tee, small: Path, tokenizer: Path, tool: Callable[..., Path], tmp_path: Path
) -> Profile:
    """Two edits with these fields of the form; the folder of what it wrote."""
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(small / "photo.jpg", photos)

    def profile(name: str, **fields: str) -> Path:
        options: tuple[str | Path, ...] = (
            *("--model", "qwen-image-edit", "--endpoint-type", "image_edit", "--url", front.url),
            *("--api-key", service.key, "--tokenizer", tokenizer, "--isl", "8", "--random-seed", "7"),
            *("--image-source", photos, "--image-source-sampling", "sequential-cycle", "--image-format", "jpeg"),
            *("--image-width-mean", "64", "--image-height-mean", "48", "--request-count", "2", "--concurrency", "1"),
            *("--extra-inputs", *(f"{field}:{value}" for field, value in fields.items())),
            *("--no-server-metrics", "--no-gpu-telemetry", "--ui", "none", "--artifact-dir", tmp_path / name),
        )
        command: list[str | Path] = [tool("aiperf", "bin", "aiperf"), "profile", *options]
        env = environment(PYTHONPATH="")
        del env["HF_HUB_OFFLINE"]  # with it, no folder is taken for a tokenizer
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert (tmp_path / name / "profile_export.jsonl").exists(), (done.stdout + done.stderr)[-3000:]
        return tmp_path / name

    return profile


def test_edits_are_measured_and_a_refusal_says_why(profile: Profile, front: Tee) -> None:
    measured = profile("measured", size="64x64", n="2", steps="2")
    refused = profile("refused", size="12x12")
    figures = json.loads((measured / "profile_export_aiperf.json").read_text())
    assert figures["request_count"]["avg"] == 2
    assert figures["error_summary"] == []
    assert "size must be" in (refused / "profile_export.jsonl").read_text()
    save("aiperf", front.exchanges, "edit, n=2", None, "refused", None)
