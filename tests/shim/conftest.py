from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient

from shim.app import create_app
from shim.settings import Settings

Draw = Callable[..., bytes]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A picture file of one colour."""

    def draw(width: int = 64, height: int = 48, file_format: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "red").save(buffer, file_format)
        return buffer.getvalue()

    return draw


@pytest.fixture(scope="session")
def png(draw: Draw) -> bytes:
    return draw()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody listens: the port is bound, so that nobody else takes it, and never listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def serve(nowhere: str) -> Iterator[Callable[..., TestClient]]:
    """The application with these variables, in front of a Triton that is away."""
    opened: list[TestClient] = []

    def serve(**environ: str) -> TestClient:
        app = create_app(Settings.from_environment({"TRITON_URL": nowhere, **environ}))
        client = TestClient(app)
        client.__enter__()
        opened.append(client)
        return client

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Callable[..., TestClient]) -> TestClient:
    return serve()
