"""Children of the launcher that end or hang, and a server whose Triton gives strange answers first."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from standalone import service
from standalone.errors import LaunchError
from standalone.plan import Plan
from standalone.probe import Probe, answers_200
from standalone.processes import Reaper
from standalone.restarts import Restarts
from standalone.service import Service
from standalone.settings import Settings
from standalone.supervisor import DRAINING, Phase, Supervisor
from standalone.tritonserver import Access
from tests.kit.servers import free_ports

SHM_PREFIX = "qwen_image_edit_test_service_"
# Answers every request with the next of its arguments, the last one again and again.
ANSWERS = """
import socketserver, sys
port, *answers = sys.argv[1:]

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write((answers.pop(0) if len(answers) > 1 else answers[0]).encode())

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

Server(("127.0.0.1", int(port)), Handler).serve_forever()
"""
OK = "HTTP/1.0 200 OK\r\n\r\n"
ILL = "HTTP/1.0 503 Ill\r\n\r\n"


def command(port: int, *answers: str) -> list[str]:
    return [sys.executable, "-c", ANSWERS, str(port), *answers]


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    with contextlib.closing(Reaper(SHM_PREFIX)) as reaper:
        yield reaper


@pytest.fixture
def start(reaper: Reaper) -> Iterator[Callable[..., Service]]:
    started = []

    def start(command: list[str], port: int, **settings: str) -> Service:
        restarts = Restarts("child", Settings.from_environment(settings), gives_up=True)
        child = Service("child", command, dict(os.environ), f"http://127.0.0.1:{port}/health", reaper, restarts)
        started.append(child)
        return child

    yield start
    for child in started:
        child.stop(0)


def tick_until(ticking: Service | Supervisor, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        ticking.tick()
        time.sleep(0.02)


def process_at(port: int) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[3:4] == [str(port)]
    ]
    return found


def another_process_answers(port: int, than: psutil.Process) -> bool:
    return answers_200(f"http://127.0.0.1:{port}/health") and process_at(port).pid != than.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_child_that_ends_or_hangs_is_started_again(
    start: Callable[..., Service], number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HUNG_SECONDS", 1.0)
    (port,) = free_ports(1)
    child = start(command(port, OK), port)
    tick_until(child, lambda: answers_200(f"http://127.0.0.1:{port}/health"))
    time.sleep(1.0)  # until it was asked
    child.tick()
    first = process_at(port)
    first.send_signal(number)
    tick_until(child, lambda: another_process_answers(port, first))


def test_a_pause_of_everything_is_no_silence_of_a_child(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker pause`, a snapshot of the machine: the first look after it comes before any question."""
    monotonic, paused = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + paused)
    (port,) = free_ports(1)
    child = start(command(port, OK), port)
    tick_until(child, lambda: answers_200(f"http://127.0.0.1:{port}/health"))
    first = process_at(port)
    first.suspend()  # so that no answer comes between the pause and the look
    for _ in range(3):
        paused += 3600.0
        child.tick()
    assert process_at(port).pid == first.pid


def test_a_child_that_says_it_is_ill_is_alive(start: Callable[..., Service]) -> None:
    """HAProxy without a healthy Triton is one."""
    (port,) = free_ports(1)
    child = start(command(port, ILL), port)
    child.tick()
    with contextlib.closing(Probe(f"http://127.0.0.1:{port}/health")) as probe:
        tick_until(child, lambda: probe.answered)


def test_a_child_that_never_came_to_life_ends_the_launcher(start: Callable[..., Service]) -> None:
    child = start([sys.executable, "-c", "raise SystemExit(3)"], free_ports(1)[0])
    with pytest.raises(LaunchError, match=r"^child: it ended with status 3 before it was ready: its log is above$"):
        tick_until(child, lambda: False)


def test_a_child_that_failed_too_often_is_given_up(start: Callable[..., Service]) -> None:
    (port,) = free_ports(1)
    child = start(command(port, OK), port, MAX_FAILURES="1")
    tick_until(child, lambda: answers_200(f"http://127.0.0.1:{port}/health"))
    time.sleep(1.0)  # until it was asked
    child.tick()
    process_at(port).kill()
    with pytest.raises(LaunchError, match="it was killed by SIGKILL; that was failure 1 within 30 minutes"):
        tick_until(child, lambda: False)


LOADED = 'HTTP/1.0 200 OK\r\n\r\n[{"name": "qwen_image_edit", "state": "READY"}]'
STRANGE = (
    "SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n[{",
    "HTTP/1.0 200 OK\r\n\r\n<html></html>",
    'HTTP/1.0 200 OK\r\n\r\n[{"state": "READY"}]',
)


@pytest.fixture
def supervisor(reaper: Reaper, tmp_path: Path) -> Iterator[Supervisor]:
    """Of a Triton that has strange answers before the one that its model is loaded."""
    http, grpc, metrics, health = free_ports(4)
    settings = Settings.from_environment(
        {"TRITON_HTTP_PORT": str(http), "TRITON_GRPC_PORT": str(grpc), "TRITON_METRICS_PORT": str(metrics),
         "SUPERVISOR_PORT": str(health)}
    )  # fmt: skip
    control_dir = tmp_path / "run" / "0"
    control_dir.mkdir(mode=0o700, parents=True)
    planned = Plan(
        "triton", settings, tuple(command(http, *STRANGE, LOADED)), dict(os.environ), SHM_PREFIX, control_dir,
        Access("key"),
    )  # fmt: skip
    supervisor = Supervisor(planned, reaper)
    supervisor.start()
    yield supervisor
    supervisor.stop(0)


def test_strange_answers_mean_that_triton_is_not_ready_yet(supervisor: Supervisor) -> None:
    tick_until(supervisor, lambda: supervisor.phase is Phase.SERVING)


def test_it_drains_where_a_cleaner_of_temporary_files_has_removed_its_folder(supervisor: Supervisor) -> None:
    tick_until(supervisor, lambda: supervisor.phase is Phase.SERVING)
    shutil.rmtree(supervisor.plan.control_dir.parent)
    supervisor.drain()
    assert (supervisor.plan.control_dir / DRAINING).exists()
