"""What generators make of /openapi.json: clients and collections, without an error, and a client that edits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.clients.conftest import Service
from tests.kit.servers import environment

EDIT = """
import base64, io, sys
from client import AuthenticatedClient
from client.api.default import edit_images, generate_images
from client.models import EditImagesFilesBody, EditImagesFilesBodyOutputFormat
from client.types import File

url, key, path = sys.argv[1:]
files = [File(open(path, "rb"), "cat.jpg", "image/jpeg") for _ in range(2)]
body = EditImagesFilesBody(prompt="make it blue", image=files, size="64x64", n=2, seed=3)
body.output_format = EditImagesFilesBodyOutputFormat.WEBP
with AuthenticatedClient(url, key) as client:
    answer = edit_images.sync(client=client, body=body)
pictures = [base64.b64decode(item.b64_json)[8:12] for item in answer.data]
print(pictures, answer.size, answer.usage.input_images)
"""


@pytest.fixture(scope="module")
def description(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("description") / "openapi.json"
    path.write_bytes(requests.get(f"{service.url}/openapi.json", timeout=10).content)
    return path


def run(*command: str | Path, cwd: Path) -> str:
    env = environment(PYTHONPATH="", HOME=str(cwd), REDOCLY_TELEMETRY="off", REDOCLY_SUPPRESS_UPDATE_NOTICE="true")
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_a_python_client_is_made_of_it_and_edits(
    service: Service, description: Path, folder: Path, tool: Callable[..., Path]
) -> None:
    program = tool("openapi_client", "bin", "openapi-python-client")
    where = description.parent
    config = where / "config.json"
    config.write_text(json.dumps({"post_hooks": []}))
    said = run(
        *(program, "generate", "--path", description, "--output-path", where / "client", "--meta", "none"),
        *("--config", config, "--fail-on-warning"),
        cwd=where,
    )
    assert "WARNING" not in said
    python = tool("openapi_client", "bin", "python")
    printed = run(python, "-c", EDIT, service.url, service.key, folder / "cat.jpg", cwd=where)
    assert printed.strip() == "[b'WEBP', b'WEBP'] 64x64 2"


def test_types_are_made_of_it(description: Path, tool: Callable[..., Path]) -> None:
    bin = ("node_modules", ".bin")
    where = description.parent
    run(tool("openapi_tools", *bin, "openapi-typescript"), description, "-o", where / "api.ts", cwd=where)
    run(tool("openapi_tools", *bin, "tsc"), "--strict", "--noEmit", where / "api.ts", cwd=where)
    assert "image_generation.completed" in (where / "api.ts").read_text()


def test_redocly_finds_no_error_in_it(description: Path, tool: Callable[..., Path]) -> None:
    program = tool("openapi_tools", "node_modules", ".bin", "redocly")
    said = run(program, "lint", description, "--format=summary", cwd=description.parent)
    assert "Your API description is valid" in said


def test_postman_makes_a_collection_of_it(description: Path, tool: Callable[..., Path]) -> None:
    collection = description.parent / "collection.json"
    program = tool("openapi_tools", "node_modules", ".bin", "openapi2postmanv2")
    run(program, "-s", description, "-o", collection, cwd=description.parent)
    requests_ = json.dumps(json.loads(collection.read_text()))
    assert '"type": "file"' in requests_
