"""A server with a key for the clients, and a folder of pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.kit.servers import PROJECT, Server, serve_shim

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
