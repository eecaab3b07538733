"""LiteLLM, whose image_edit reads the answer strictly: usage must have all of OpenAI's fields."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Service
from tests.kit.servers import environment

SCRIPT = Path(__file__).with_name("litellm_edits.py")

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(service: Service, folder: Path, tool: Callable[..., Path]) -> Outcomes:
    command: list[str | Path] = [tool("litellm", "bin", "python"), SCRIPT, service.url, service.key, folder]
    env = environment(LITELLM_LOCAL_MODEL_COST_MAP="True", PYTHONPATH="")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loaded: Outcomes = json.loads(done.stdout.splitlines()[-1])
    return loaded


def test_one_picture_is_edited(outcomes: Outcomes) -> None:
    assert len(outcomes["one"]["pictures"]) == 1
    assert outcomes["one"]["tokens"] > 0


def test_unknown_arguments_and_extra_body_reach_the_model(outcomes: Outcomes) -> None:
    assert outcomes["one"] == outcomes["extra_body"]


@pytest.mark.parametrize(("name", "pictures"), [("two, n=2", 2), ("mask", 1)])
def test_references_variants_and_masks(outcomes: Outcomes, name: str, pictures: int) -> None:
    assert len(outcomes[name]["pictures"]) == pictures


def test_a_refusal_is_a_bad_request_that_says_why(outcomes: Outcomes) -> None:
    refused = outcomes["bad size"]
    assert (refused["error"], refused["status"]) == ("BadRequestError", 400)
    assert "12x12" in refused["message"]
