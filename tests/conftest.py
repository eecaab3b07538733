"""Fixtures of all tests: checkpoints, photographs and one running stack for the session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Never

import hypothesis
import pytest

from tests.kit import tools
from tests.kit.servers import Ending, Server, serve

# Read when torch is imported, and the only setting that holds for every thread: two OpenMP threads on two cores that
# other processes use too are many times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

# How long one example takes is this machine's affair, and no test's.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def endings() -> Iterator[None]:
    """After the last test no server is left, and none has taken too long to end."""
    yield
    for ending in Ending.begun:
        ending.wait()


def _checkpoints(folder: Path, *, sensitive: bool = False) -> Callable[[str], Path]:
    from checkpoints.random_weights import write_checkpoint

    def of(family: str) -> Path:
        path = folder / family
        if not path.exists():
            write_checkpoint(path, family, sensitive=sensitive)
        return path

    return of


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a tiny checkpoint of a family once: `checkpoint("plus")`."""
    return _checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same with weights scaled so that wrong code shows in its numbers."""
    return _checkpoints(tmp_path_factory.mktemp("sensitive"), sensitive=True)


@pytest.fixture(scope="session")
def stack(sensitive: Callable[[str], Path]) -> Iterator[Server]:
    """The whole server with the tiny Plus checkpoint; tests must leave it as they found it."""
    with serve(sensitive("plus"), DEFAULT_STEPS="2", REFERENCE_AREA="4096") as server:
        yield server


@pytest.fixture(scope="session")
def stack21(sensitive: Callable[[str], Path]) -> Iterator[Server]:
    """The same with Qwen-Image-2.1."""
    with serve(
        sensitive("2.1"), DEFAULT_STEPS="2", REFERENCE_AREA="4096", MAX_SIDE="640", PREFIX_CACHE_MB="1"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def layered(sensitive: Callable[[str], Path]) -> Iterator[Server]:
    """The same with Qwen-Image-Layered, in segments of three steps."""
    with serve(
        sensitive("layered"), REFERENCE_AREA="16384", DEFAULT_STEPS="4", SEGMENT_STEPS="3", MAX_OUTPUTS_PER_REQUEST="8"
    ) as server:
        yield server


@pytest.fixture
def alone(stack: Server) -> Server:
    """The stack once no edit of an earlier test is left in its engine: bits and counts are this test's own."""
    stack.wait_for(lambda: stack.metric("qwen_edit_jobs") == 0, seconds=60)
    return stack


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A 2511 checkpoint that makes NaN of the poisoned word, on a server that holds one job at a time."""
    from checkpoints.random_weights import write_checkpoint
    from tests.kit.poison import poison

    folder = write_checkpoint(tmp_path_factory.mktemp("crowded") / "plus-2511", "plus-2511")
    poison(folder)
    with serve(folder, DEFAULT_STEPS="2", REFERENCE_AREA="4096", MAX_JOBS="1") as server:
        yield server


@pytest.fixture(scope="session")
def poisoned_word() -> str:
    from tests.kit.poison import POISONED_WORD

    return POISONED_WORD


@pytest.fixture(scope="session")
def photo() -> Callable[[str], bytes]:
    """The JPEG bytes of a photograph by name: astronaut, cat, coffee, rocket."""

    def read(name: str) -> bytes:
        return (DATA / f"{name}.jpg").read_bytes()

    return read


def missing(reason: str) -> Never:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tool() -> Callable[..., Path]:
    """A file of an environment under .tools/: `tool("litellm", "bin", "python")`."""

    def tool(name: str, *path: str) -> Path:
        if not tools.is_installed(name):
            missing(f"{name} is not installed: python -m tests.kit.tools{' clients' * (name in tools.CLIENTS)}")
        return tools.TOOLS.joinpath(name, *path)

    return tool


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """A program of the machine."""

    def program(name: str) -> str:
        return tools.find_program(name) or missing(f"{name} is not installed: python -m tests.kit.tools, as root")

    return program
