"""A server with a key for the clients, and the clients that are installed under .tools/."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import pytest
from clients import tools
from PIL import Image
from servers import PROJECT, Server, serve_shim

KEY = "a-secret-key"


@dataclass(frozen=True)
class Service:
    url: str
    key: str
    triton_http: str
    triton_grpc: str


@pytest.fixture(scope="session")
def service(stack: Server) -> Iterator[Service]:
    with serve_shim(f"http://{stack.triton_http}", API_KEY=KEY) as shim:
        yield Service(shim.url, KEY, stack.triton_http, stack.triton_grpc)


def missing(reason: str) -> Never:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tool() -> Callable[..., Path]:
    """A file of an environment under .tools/: `tool("litellm", "bin", "python")`."""

    def tool(name: str, *path: str) -> Path:
        if not tools.is_installed(name):
            missing(f"{name} is not installed: python tests/clients/tools.py")
        return tools.TOOLS.joinpath(name, *path)

    return tool


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """A program of the machine."""

    def program(name: str) -> str:
        return shutil.which(name) or missing(f"{name} is not installed")

    return program


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cat.jpg, coffee.jpg, mask.png, whose upper half is transparent, and opaque.png, where nothing is."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(PROJECT / "tests" / "data" / name, folder)
    with Image.open(folder / "cat.jpg") as cat:
        width, height = cat.size
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.save(folder / "opaque.png")
    mask.paste((0, 0, 0, 0), (0, 0, width, height // 2))
    mask.save(folder / "mask.png")
    return folder
