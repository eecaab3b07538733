"""The documents' tables agree with the code, and their commands and snippets do what they say, in both languages."""

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

from docs import overload_figure
from tests.kit.documents import FIRST_EDIT, README, blocks, on, run
from tests.kit.servers import PROJECT, Server, environment

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("benchmarks/*.md")])
CHINESE, API, OPERATING = (
    (PROJECT / name).read_text("utf-8") for name in ("README.zh-CN.md", "docs/api.md", "docs/operating.md")
)
PICTURES = {"photo.jpg": "cat", "room.jpg": "coffee", "flowers.jpg": "astronaut"}


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the first table after the heading, cells stripped, without its head."""
    section = document.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines, f"no table under {heading}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[0].splitlines()[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def parts_of(language: str) -> list[Any]:
    """Every block of that language in every page, named by its page and its place there."""
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page.read_text("utf-8"), language))
        if language == "python" or block.startswith("curl")
    ]


def test_the_settings_are_those_of_the_example_environment_with_their_defaults() -> None:
    example = dict(re.findall(r"^#(\w+)=(.*)$", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    document = (PROJECT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", document, re.MULTILINE)
    shown = {name: "" if default == "–" else default for name, default in rows}
    assert len(rows) == len(shown)
    assert shown == example


@pytest.mark.parametrize(("document", "heading"), [(API, "## Errors"), (CHINESE, "## 错误代码")], ids=["en", "zh"])
def test_the_errors_are_those_of_the_code(document: str, heading: str) -> None:
    from shim.errors import ANSWERS

    shown = {(names(code)[0], int(status)) for code, status, _ in table(document, heading)}
    assert shown == {(answer.code, answer.status) for answer in ANSWERS.values()}


def test_the_routes_are_those_of_the_app() -> None:
    from shim.app import create_app
    from shim.settings import Settings

    routes = create_app(Settings()).routes
    routed = {
        route.path if isinstance(route, Mount) else route.path_format
        for route in routes
        if isinstance(route, Route | Mount)
    }
    assert len(routed) == len(routes)
    shown = {name.split(" ")[-1] for row in table(API, "## Routes") for cell in row for name in names(cell)}
    assert shown == routed


def test_the_fields_are_those_of_the_published_description(stack: Server) -> None:
    described = requests.get(f"{stack.url}/openapi.json", timeout=10).json()
    bodies = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    schema = resolved(described, bodies["multipart/form-data"]["schema"])
    shown = {name for field, *_ in table(API, "## Fields") for name in names(field)}
    assert set(schema["properties"]) - shown <= refused_in_words()
    assert {name.removesuffix("[]") for name in shown} <= set(schema["properties"])
    for name in shown - set(schema["properties"]):
        assert f"`{name}`" in schema["properties"][name.removesuffix("[]")]["description"]


def resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def refused_in_words() -> set[str]:
    return {"frame_count"}


def test_the_metrics_are_those_that_triton_serves(stack: Server) -> None:
    served = requests.get(stack.triton_metrics, timeout=10).text
    shown = {re.sub(r"\{.*", "", name) for name, _ in table(OPERATING, "## Metrics") for name in names(name)}
    assert shown == set(re.findall(r"^# TYPE (qwen_edit_\w+) ", served, re.MULTILINE))


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[[str], bytes]) -> Path:
    """Where a reader works: the project's own pictures, and three more."""
    (tmp_path / "tests").symlink_to(PROJECT / "tests")
    for name, photograph in PICTURES.items():
        (tmp_path / name).write_bytes(photo(photograph))
    return tmp_path


@pytest.mark.parametrize("command", parts_of("bash"))
def test_a_curl_command_answers(stack: Server, folder: Path, command: str) -> None:
    answer = run(stack, folder, command)
    if "stream=true" in command:
        assert "event: image_edit.completed" in answer
    elif "> edited.png" in command:
        assert not answer
        with Image.open(folder / "edited.png") as edited:
            assert edited.format == "PNG"
    else:
        assert json.loads(answer)["data"][0]["b64_json"]


def test_the_answer_shown_has_the_shape_of_the_real_one(stack: Server, folder: Path) -> None:
    request, _pipe, _writing = blocks(README, "bash")[FIRST_EDIT].partition("\\\n  | python3")
    assert shape(json.loads(run(stack, folder, request))) == shape(json.loads(blocks(README, "json")[0]))


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("script", parts_of("python"))
def test_a_python_snippet_runs(stack: Server, folder: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", on(stack, script)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "edited.png") as edited:
        assert edited.size[0] % 16 == 0


def test_both_readmes_show_the_same_commands_answer_and_rows() -> None:
    for language in ("bash", "json"):
        ours, theirs = ([without_words(block) for block in blocks(text, language)] for text in (README, CHINESE))
        assert [block for block in ours if not block.startswith("make test")] == [
            block for block in theirs if "images=@" not in block
        ]
    for english, chinese in (
        ("## Clients", "## 客户端"),
        ("## Models", "## 模型"),
        ("## Read on", "## 其他文档（英文）"),
    ):
        rows, rows_in_chinese = table(README, english), table(CHINESE, chinese)
        assert [list(map(names, row)) for row in rows] == [list(map(names, row)) for row in rows_in_chinese]


def without_words(block: str) -> str:
    """A command without its comments."""
    return re.sub(r" *# .*", "", block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text("utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}, heading


def test_the_table_of_clients_has_the_versions_that_were_run() -> None:
    pinned = "\n".join(path.read_text() for path in (PROJECT / "tests/environments").iterdir())
    for client, versions, *_ in table("\n" + (PROJECT / "docs/clients.md").read_text("utf-8"), "# Clients"):
        named = re.findall(r"`([^`]+)` ([\d.]+)", versions)
        assert named, client
        for package, version in named:
            assert f"{package}=={version}\n" in pinned or f'"{package}": "{version}"' in pinned, package


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_every_file_that_the_architecture_names_is_there() -> None:
    """Paths in backquotes, from the project's root or from the engine's package."""
    engine = PROJECT / "model_repository/qwen_image_edit/1"
    named = re.findall(r"`([\w./]+(?:\.py|\.js|\.pbtxt|/))`", (PROJECT / "docs/architecture.md").read_text("utf-8"))
    roots = (PROJECT, PROJECT / "shim", engine, engine / "qwen_edit", engine.parent)
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_the_figure_of_overload_shows_what_was_measured() -> None:
    before, now = overload_figure.measured().values()
    assert before["delivered"] / before["steps made"] < 0.2
    assert now["delivered"] / now["steps made"] > 0.95
