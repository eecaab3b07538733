"""The rooms of each part: no circles among them, none too large, and nothing private of one used by another."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.servers import PROJECT
from tests.kit.sources import imported

ENGINE = "model_repository/qwen_image_edit/1/qwen_edit"
PARTS = {"shim": "shim", "standalone": "standalone", "checkpoints": "checkpoints", "qwen_edit": ENGINE}
MAX_ENTRIES = {"shim": 20, "qwen_edit": 22}
MAX_LINES = 300
KNOWS_DIFFUSERS = f"{ENGINE}/pipeline.py"
BY_NAME = ("getattr", "setattr", "delattr")
PRIVATE = re.compile(r"(?:^|\.)_(?!_)")  # a name, or one in a dotted path
# Documented, whatever their names say; and all that torch has for fp8 and for counting graphs.
PUBLIC = ("os._exit", "torch._scaled_mm", "torch._dynamo.utils", "_typeshed")
OF_NAMED_TUPLES = ("_asdict", "_replace")  # documented too, with an underscore lest they hide a field


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=PROJECT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := PROJECT / name).exists()]


def files(part: str) -> list[Path]:
    return tracked(f"{PARTS[part]}/**.py", f"{PARTS[part]}/*.py")


def room(part: str, path: Path) -> str:
    """The file or sub-package directly under the part's folder."""
    return path.relative_to(PROJECT / PARTS[part]).parts[0].removesuffix(".py")


def arrows(part: str) -> dict[str, set[str]]:
    rooms = {room(part, path) for path in files(part)}
    found: dict[str, set[str]] = {name: set() for name in rooms}
    for path in files(part):
        targets = {name.split(".")[1] for name in imported(path) if name.startswith(f"{part}.")}
        found[room(part, path)] |= targets & rooms - {room(part, path)}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_no_rooms_of_a_part_import_each_other_in_a_circle(part: str) -> None:
    graphlib.TopologicalSorter(arrows(part)).prepare()


@pytest.mark.parametrize("part", MAX_ENTRIES)
def test_a_folder_can_be_taken_in_at_a_glance(part: str) -> None:
    entries = {path.relative_to(PROJECT / PARTS[part]).parts[0] for path in tracked(f"{PARTS[part]}/**", PARTS[part])}
    assert len(entries) <= MAX_ENTRIES[part], sorted(entries)


@pytest.mark.parametrize("part", PARTS)
def test_a_package_says_what_it_is_and_holds_nothing_else(part: str) -> None:
    for path in files(part):
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body), path


def test_no_product_file_is_long() -> None:
    product = [path for part in PARTS for path in files(part)]
    product += tracked(f"{ENGINE}/../model.py", "shim/static/*.js", "shim/static/*.css", "shim/static/*.html")
    assert not {path.name: lines for path in product if (lines := len(path.read_text().splitlines())) > MAX_LINES}


def private_names(path: Path) -> Iterator[str]:
    """`thing._name` where the thing is not the object or class itself, and imported names of that kind."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.relative_to(PROJECT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
            yield from (f"{where} {name}" for name in names if PRIVATE.search(name) and name not in PUBLIC)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "getattr",
            "setattr",
            "delattr",
        ):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from (f"{where} {text!r}" for text in texts if PRIVATE.match(text))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner, public = node.value, node.attr in OF_NAMED_TUPLES or ast.unparse(node) in PUBLIC
            if not public and not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                yield f"{path.relative_to(PROJECT)}:{node.lineno} {ast.unparse(node)}"


def test_no_file_reaches_for_the_private_names_of_another() -> None:
    """diffusers keeps half of what the engine needs behind an underscore: one file knows it."""
    reached = [name for path in tracked("*.py") for name in private_names(path)]
    assert [name for name in reached if not name.startswith(KNOWS_DIFFUSERS)] == []
