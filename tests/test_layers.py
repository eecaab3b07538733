"""Imports go one way: the parts that are shipped know nothing of each other, and nothing imports upward."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.servers import PROJECT
from tests.kit.sources import imported, packages

OURS = {"shim", "standalone", "checkpoints", "qwen_edit", "tests", "benchmarks"}
# What a folder may import of ours, itself aside.
ALLOWED: dict[str, set[str]] = {
    "shim": set(),
    "standalone": {"shim", "qwen_edit"},
    "model_repository": {"qwen_edit"},
    "checkpoints": {"qwen_edit"},
    "tests/kit": {"shim", "standalone", "checkpoints", "qwen_edit"},
    "tests": {"shim", "standalone", "checkpoints", "qwen_edit"},
    "benchmarks": {"shim", "standalone", "checkpoints", "qwen_edit", "tests"},
}
MODEL_PACKAGES = {"torch", "diffusers", "transformers", "triton_python_backend_utils"}


def sources(folder: str) -> list[Path]:
    found = list((PROJECT / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    of_itself = folder.partition("/")[0]
    upward = {
        path.relative_to(PROJECT).as_posix(): strange
        for path in sources(folder)
        if (strange := (packages(path) & OURS) - ALLOWED[folder] - {of_itself})
    }
    tested = ("tests/test_gpu_benchmark.py", "tests/test_verify.py")
    of_the_benchmark = {path: {"benchmarks"} for path in tested} if folder == "tests" else {}
    assert upward == of_the_benchmark


@pytest.mark.parametrize("folder", ["tests/kit", "benchmarks"])
def test_of_the_tests_only_the_kit_is_imported(folder: str) -> None:
    names = {name for path in sources(folder) for name in imported(path) if name.startswith("tests.")}
    assert names
    assert all(name.startswith("tests.kit") for name in names)


def test_of_the_other_parts_the_launcher_reads_the_settings_alone() -> None:
    names = {name for path in sources("standalone") for name in imported(path)}
    of_others = {name for name in names if name.partition(".")[0] in ("shim", "qwen_edit")}
    assert of_others <= {"shim.settings", "qwen_edit.settings", "qwen_edit.settings.Settings"}
    assert of_others


@pytest.mark.parametrize("folder", ["shim", "standalone"])
def test_what_serves_and_watches_never_imports_torch(folder: str) -> None:
    assert not [path for path in sources(folder) if packages(path) & MODEL_PACKAGES]


def test_model_py_alone_talks_to_triton() -> None:
    talking = [path.name for path in sources("model_repository") if "triton_python_backend_utils" in packages(path)]
    assert talking == ["model.py"]
