"""The README's tables agree with the code, and its commands and snippets do what they say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from starlette.routing import Mount, Route

from tests.kit.servers import PROJECT, Server, environment

README = (PROJECT / "README.md").read_text()
PICTURES = {"photo.jpg": "cat", "room.jpg": "coffee", "flowers.jpg": "astronaut"}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after the heading, cells stripped, without its head."""
    section = README.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines, f"no table under {heading}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_settings_are_those_of_the_example_environment_with_their_defaults() -> None:
    example = dict(re.findall(r"^#(\w+)=(.*)$", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    document = (PROJECT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", document, re.MULTILINE)
    shown = {name: "" if default == "–" else default for name, default in rows}
    assert len(rows) == len(shown)
    assert shown == example


def test_the_errors_are_those_of_the_code() -> None:
    from shim.errors import ANSWERS

    shown = {(names(code)[0], int(status)) for code, status, _ in table("### Errors")}
    assert shown == {(answer.code, answer.status) for answer in ANSWERS.values()}


def test_the_routes_are_those_of_the_app() -> None:
    from shim.app import create_app
    from shim.settings import Settings

    routes = create_app(Settings()).routes
    routed = {route.path for route in routes if isinstance(route, Route | Mount)}
    assert len(routed) == len(routes)
    shown = {name.split(" ")[-1] for row in table("## HTTP API") for cell in row for name in names(cell)}
    assert shown == routed


def test_the_fields_are_those_of_the_published_description(stack: Server) -> None:
    described = requests.get(f"{stack.url}/openapi.json", timeout=10).json()
    bodies = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    schema = resolved(described, bodies["multipart/form-data"]["schema"])
    shown = {name for field, *_ in table("### Fields") for name in names(field)}
    assert set(schema["properties"]) - shown <= refused_in_words()
    assert shown <= set(schema["properties"])


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def refused_in_words() -> set[str]:
    return {"markup", "frame_count", "safety_identifier", "complexity"}


def test_the_metrics_are_those_that_triton_serves(stack: Server) -> None:
    served = requests.get(stack.triton_metrics, timeout=10).text
    shown = {re.sub(r"\{.*", "", name) for name, _ in table("## Metrics") for name in names(name)}
    assert shown == set(re.findall(r"^# TYPE (qwen_edit_\w+) ", served, re.MULTILINE))


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[[str], bytes]) -> Path:
    """Where the README's reader keeps the pictures."""
    for name, photograph in PICTURES.items():
        (tmp_path / name).write_bytes(photo(photograph))
    return tmp_path


def on(stack: Server, text: str) -> str:
    """The text with the stack's addresses."""
    addressed = text.replace("127.0.0.1:8000", f"127.0.0.1:{stack.port}")
    return addressed.replace("127.0.0.1:8010", stack.triton_http)


CURLS = [block for block in blocks("bash") if block.startswith("curl")]
SCRIPTS = blocks("python")


@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_a_curl_command_answers(stack: Server, folder: Path, command: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", on(stack, command)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "stream=true" in command:
        assert "event: image_edit.completed" in done.stdout
    else:
        assert json.loads(done.stdout)["data"][0]["b64_json"]


def test_the_answer_shown_has_the_shape_of_the_real_one(stack: Server, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", on(stack, CURLS[0])], cwd=folder, env=environment(), capture_output=True, check=True
    )
    assert shape(json.loads(done.stdout)) == shape(json.loads(blocks("json")[0]))


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_a_python_snippet_runs(stack: Server, folder: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", on(stack, script)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "edited.png") as edited:
        assert edited.size[0] % 16 == 0


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (PROJECT / target).exists(), target
