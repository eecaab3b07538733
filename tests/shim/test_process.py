"""The shim as a process of its own: how it starts, how it stops, and what OpenAI's SDK makes of its errors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **variables}


@contextmanager
def running(triton_url: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    env = environment(PORT=str(port), TRITON_URL=triton_url, **variables)
    process = subprocess.Popen(
        [sys.executable, "-m", "shim"], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(process, url)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_until_healthy(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the shim ended with {process.returncode}:\n{process.communicate()[0]}")
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"the shim is not healthy after {START_SECONDS} s")


def test_a_bad_setting_ends_it_with_one_line() -> None:
    env = environment(PORT="http")
    ended = subprocess.run([sys.executable, "-m", "shim"], cwd=ROOT, env=env, text=True, capture_output=True)
    assert ended.returncode == 1
    assert ended.stderr == "error: PORT='http': a whole number from 1 to 65535 is allowed\n"


def test_it_runs_without_the_models_dependencies() -> None:
    code = "import shim.__main__, sys; print(*{'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment(), text=True) == "\n"


def test_sigterm_turns_ready_off_before_the_process_ends(nowhere: str) -> None:
    with running(nowhere, DRAIN_SECONDS="5") as (process, url):
        process.send_signal(signal.SIGTERM)
        assert httpx.get(f"{url}/ready").json()["message"] == "The server is shutting down"
        assert httpx.get(f"{url}/health").status_code == 200
        log, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_a_page_whose_name_was_bound_to_this_machine_gets_nothing(nowhere: str, png: bytes) -> None:
    """As a browser on it would ask, whatever else it is made to send; over a real connection."""
    with running(nowhere) as (_, url):
        port = url.rsplit(":", 1)[1]
        page = {
            "host": f"evil.example:{port}",
            "origin": f"http://evil.example:{port}",
            "x-forwarded-host": "localhost",
        }
        for method, path in (("GET", "/"), ("GET", "/v1/models"), ("POST", "/v1/images/edits")):
            refused = httpx.request(method, f"{url}{path}", headers=page)
            told = refused.json()
            code, message = (told["error"], told["message"]) if "message" in told else (
                told["error"]["code"], told["error"]["message"]
            )  # fmt: skip
            assert (refused.status_code, code) == (403, "FORBIDDEN")
            assert "ALLOWED_HOSTS" in message
        assert httpx.get(f"{url}/health", headers=page).status_code == 200
        own = {"host": f"localhost:{port}", "origin": f"http://localhost:{port}"}
        edit = httpx.post(f"{url}/v1/images/edits", headers=own, data={"prompt": "x"}, files={"images": png})
        assert edit.json()["error"] == "MODEL_NOT_READY"


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1", 400), ("192.0.2.1", 403)], ids=["trusted", "stranger"])
def test_the_proxies_that_uvicorn_trusts_tell_by_which_name_they_were_called(
    nowhere: str, trusted: str, status: int
) -> None:
    proxied = {"origin": "https://edits.example.org", "x-forwarded-host": "edits.example.org"}
    with running(nowhere, FORWARDED_ALLOW_IPS=trusted, ALLOWED_HOSTS="edits.example.org") as (_, url):
        assert httpx.post(f"{url}/v1/images/edits", headers=proxied).status_code == status


@pytest.mark.parametrize(
    ("variables", "warned"),
    [({}, True), ({"API_KEY": "secret"}, False), ({"HOST": "127.0.0.1"}, False)],
    ids=["open", "with a key", "on loopback"],
)
def test_without_a_key_it_warns_at_every_start_that_others_reach(variables: dict[str, str], warned: bool) -> None:
    """On an address that no machine has, or a port that is taken, so that it listens nowhere."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = environment(**{"HOST": "192.0.2.1", "PORT": port} | variables)
        ended = subprocess.run([sys.executable, "-m", "shim"], cwd=ROOT, env=env, text=True, capture_output=True)
    assert ended.returncode != 0
    warning = f"WARNING - HOST=192.0.2.1 without API_KEY: everybody who reaches port {port} may edit"
    assert (warning in ended.stdout) == warned
    assert ("without API_KEY" in ended.stdout) == warned


def test_openais_sdk_reads_our_errors(nowhere: str, png: bytes) -> None:
    with running(nowhere, API_KEY="secret") as (_, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        with pytest.raises(openai.BadRequestError) as invalid:
            client.images.edit(image=png, prompt="x", n=11)
        assert (invalid.value.code, invalid.value.param) == ("INVALID_INPUT", "n")
        assert invalid.value.request_id
        with pytest.raises(openai.InternalServerError) as away:
            client.images.edit(image=[png, png], prompt="x", extra_body={"seed": 1, "steps": 4})
        assert (away.value.status_code, away.value.code) == (503, "MODEL_NOT_READY")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").images.edit(image=png, prompt="x")
        assert client.models.list().data[0].id == "qwen-image-edit"
        client.close()
