"""The documents' tables and .env.example are those that the code declares, and a difference is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import PLACE, tables
from tests.kit.servers import PROJECT, environment

PARTS = ("charts", "docs", "shim", "standalone", "model_repository")
IGNORED = shutil.ignore_patterns("__pycache__", "*.safetensors", "tokenizer.json")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the documents are made from, and the documents, to change."""
    for part in PARTS:
        shutil.copytree(PROJECT / part, tmp_path / part, ignore=IGNORED)
    for file in (".env.example", "README.md"):
        shutil.copy(PROJECT / file, tmp_path)
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(PROJECT / "benchmarks" / "RESULTS.md", tmp_path / "benchmarks")
    return tmp_path


def generate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment(PYTHONPATH=str(folder))
    command = [sys.executable, "-m", "docs.generate", *arguments]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def replace(path: Path, old: str, new: str) -> None:
    before = path.read_text("utf-8")
    assert before.count(old) == 1
    path.write_text(before.replace(old, new), "utf-8")


def differing(folder: Path) -> list[str]:
    """The files that the check names."""
    done = generate(folder, "--check")
    assert done.returncode == bool(done.stderr), done.stderr
    return [line.split(" ", 1)[0] for line in done.stderr.splitlines()]


def test_the_documents_are_those_of_the_code() -> None:
    assert differing(PROJECT) == []


def test_a_changed_default_is_noticed_until_the_documents_are_made_again(copy: Path) -> None:
    replace(copy / "model_repository/qwen_image_edit/1/qwen_edit/settings.py", "integer(1, 100_000),\n        64,",
            "integer(1, 100_000),\n        65,")  # fmt: skip

    assert differing(copy) == [".env.example", "docs/settings.md"]
    assert generate(copy).returncode == 0
    assert differing(copy) == []
    assert "| `MAX_JOBS` | 65 |" in (copy / "docs" / "settings.md").read_text("utf-8")
    assert "#MAX_JOBS=65\n" in (copy / ".env.example").read_text("utf-8")


@pytest.mark.parametrize("name", ["`SEGMENT_STEPS`", "`HOST_ADDRESS`"])
def test_a_setting_that_is_missing_from_its_table_is_noticed(copy: Path, name: str) -> None:
    document = copy / "docs" / "settings.md"
    lines = document.read_text("utf-8").splitlines(keepends=True)
    document.write_text("".join(line for line in lines if not line.startswith(f"| {name} ")), "utf-8")

    assert differing(copy) == ["docs/settings.md"]


def test_a_setting_that_is_missing_from_the_example_environment_is_noticed(copy: Path) -> None:
    replace(copy / ".env.example", "#SEGMENT_STEPS=10\n", "")

    assert differing(copy) == [".env.example"]


def test_every_table_has_one_place() -> None:
    documents = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")]
    places = [place[2] for path in documents for place in PLACE.finditer(path.read_text("utf-8"))]

    assert sorted(places) == sorted(tables())


def test_making_documents_needs_no_package_of_the_model() -> None:
    check = "import sys, docs.generate; list(docs.generate.documents()); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment(), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()

    assert "qwen_edit.settings" in loaded
    assert not {"torch", "diffusers", "transformers"} & set(loaded)


def test_a_figure_that_was_measured_anew_is_noticed(copy: Path) -> None:
    replace(copy / "benchmarks" / "RESULTS.md", "| 2788 (99.4 %) |", "| 2700 (96.3 %) |")
    assert differing(copy) == ["docs/overload.svg"]
