"""The published description is valid, and schemathesis finds no answer of the running server outside of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.kit.servers import Server, environment, serve_shim

KEY = "a-secret-key"
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"),
    *("unsupported_method", "allow_header_conformance", "ignored_auth"),
)
# The same operation as /v1/images/edits.
LEFT_OUT = ("/images/edits", "/openai/deployments/{model}/images/edits")


@pytest.fixture(scope="module")
def small(stack: Server) -> Iterator[Server]:
    """A shim whose largest edits are quick."""
    limits = {"MAX_STEPS": "4", "MAX_SIDE": "128", "MAX_OUTPUTS_PER_REQUEST": "2"}
    with serve_shim(f"http://{stack.triton_http}", API_KEY=KEY, **limits) as shim:
        yield shim


def test_the_description_is_valid_openapi(small: Server, tool: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_bytes(requests.get(f"{small.url}/openapi.json", timeout=10).content)
    command: list[str | Path] = [tool("schemathesis", "bin", "python"), "-m", "openapi_spec_validator", path]
    done = subprocess.run(command, env=environment(PYTHONPATH=""), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_schemathesis_finds_no_answer_that_is_not_described(small: Server, tool: Callable[..., Path]) -> None:
    st = tool("schemathesis", "bin", "st")
    options = [
        *("--checks", ",".join(CHECKS), "--max-examples", "25", "--seed", "1", "--generation-database", "none"),
        *("--auth", f"any:{KEY}", "--request-timeout", "20", "--max-failures", "5", "--no-color", "--warnings", "off"),
        *(f"--exclude-path={path}" for path in LEFT_OUT),
    ]
    env = environment(SCHEMATHESIS_HOOKS="small_edits", PYTHONPATH=str(Path(__file__).parent))
    command: list[str | Path] = [st, "run", f"{small.url}/openapi.json", *options]
    done = subprocess.run(
        command, env=env, cwd=small.log_path.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout[-5000:]
    counted = requests.get(f"{small.url}/metrics", timeout=10).text
    assert 'route="/v1/images/edits",status="200"' in counted, "no edit was accepted, so little was tried"
