"""What /healthz answers, and what those who ask it make of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shim.running.triton import Triton
from standalone import healthz
from standalone.healthz import HealthServer, Problem
from standalone.probe import answers_200

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
STATES = [
    (None, 200, {"status": "ok"}),
    (Problem("a worker is stopped"), 503, {"status": "unhealthy", "reason": "a worker is stopped"}),
    (Problem("draining", healthz.DRAINING), 404, {"status": "unhealthy", "reason": "draining"}),
]
states = pytest.mark.parametrize(("problem", "status", "body"), STATES, ids=["well", "ill", "draining"])


@contextlib.contextmanager
def health_of(problem: Problem | None) -> Iterator[str]:
    with contextlib.closing(HealthServer("127.0.0.1", 0, lambda: problem)) as server:
        yield f"http://127.0.0.1:{server.server_port}/healthz"


@states
def test_the_answer_has_the_problems_status_and_reason(
    problem: Problem | None, status: int, body: dict[str, str]
) -> None:
    with health_of(problem) as url:
        try:
            answer = urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert (answer.status, json.load(answer)) == (status, body)


@states
async def test_the_shim_and_the_launcher_take_200_alone_for_ready(
    problem: Problem | None, status: int, body: dict[str, str]
) -> None:
    with health_of(problem) as url:
        triton = Triton("http://127.0.0.1:9", url, most_bytes=1)
        try:
            assert (await triton.servers() > 0, answers_200(url)) == (status == 200, status == 200)
        finally:
            await triton.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@states
def test_the_compose_files_check_takes_200_alone_for_healthy(
    problem: Problem | None, status: int, body: dict[str, str]
) -> None:
    _, *command, asked = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]["healthcheck"]["test"]
    assert asked.endswith("/healthz")
    with health_of(problem) as url:
        done = subprocess.run([*command, url], capture_output=True, timeout=30, check=False)
    assert (done.returncode == 0) == (status == 200)
