"""OpenAI's Node SDK: one process runs all calls of openai_edits.cjs, each of which is looked at here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.conftest import Service

SCRIPT = Path(__file__).with_name("openai_edits.cjs")

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(service: Service, folder: Path, tool: Callable[..., Path], program: Callable[[str], str]) -> Outcomes:
    command: list[str | Path] = [
        program("node"),
        SCRIPT,
        service.url,
        service.key,
        folder / "cat.jpg",
        folder / "mask.png",
    ]
    env = {"NODE_PATH": str(tool("node", "node_modules"))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded: Outcomes = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def plain(service: Service, folder: Path) -> str:
    """The same edit without any SDK."""
    with (folder / "cat.jpg").open("rb") as picture:
        answer = requests.post(
            f"{service.url}/v1/images/edits",
            auth=("", service.key),
            data={"prompt": "make it\na drawing", "size": "64x64", "seed": "7", "steps": "4"},
            files={"image": picture},
            timeout=60,
        )
    picture_text: str = answer.json()["data"][0]["b64_json"]
    return picture_text


@pytest.mark.parametrize(
    "name",
    [
        *("file stream", "toFile", "toFile with a name and a type", "File", "array of one"),
        "prompt with carriage returns",
    ],
)
def test_a_picture_is_the_same_however_it_is_passed(outcomes: Outcomes, plain: str, name: str) -> None:
    assert outcomes[name] == {"answer": [plain]}


def test_an_array_is_references_of_one_edit(outcomes: Outcomes) -> None:
    assert outcomes["array of two"] == {"answer": {"pictures": 2, "images": 2}}


def test_a_mask_is_taken(outcomes: Outcomes, plain: str) -> None:
    (picture,) = outcomes["mask"]["answer"]
    assert picture != plain


def test_a_stream_shows_partial_images_and_ends_in_the_same_picture(outcomes: Outcomes, plain: str) -> None:
    events = outcomes["stream"]["answer"]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    assert events[-1]["b64_json"] == plain


def test_a_buffer_is_refused_with_a_hint(outcomes: Outcomes) -> None:
    """The SDK sends each of its bytes as a field."""
    refused = outcomes["Buffer"]
    assert (refused["status"], refused["code"], refused["param"]) == (400, "INVALID_INPUT", "image")
    assert "toFile" in refused["error"]


@pytest.mark.parametrize("name", ["bad size", "bad size in a stream"])
def test_a_refusal_is_an_error_that_names_the_field(outcomes: Outcomes, name: str) -> None:
    refused = outcomes[name]
    assert (refused["status"], refused["code"], refused["param"]) == (400, "INVALID_INPUT", "size")
    assert "12x12" in refused["error"]
    assert refused["id"]
