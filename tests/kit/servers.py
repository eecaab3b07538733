"""Real servers for tests: each a context manager around a process on free ports, its log shown when it fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
# What a child may inherit from whoever runs the tests: never a setting of ours.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

PORTS = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "SUPERVISOR_PORT")

NO_DRAIN = {"DRAIN_SECONDS": "0"}  # no balancer needs to be told before a shim stops


def environment(**settings: str) -> dict[str, str]:
    """A clean environment with `settings`."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONPATH": str(PROJECT), "TORCH_THREADS": "1", "HF_HUB_OFFLINE": "1", **settings}


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; bound together so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@dataclass(eq=False)
class Server:
    """A running process of the project and the addresses it serves."""

    process: subprocess.Popen[bytes]
    log_path: Path
    port: int
    triton_http_port: int = 0
    triton_grpc_port: int = 0
    triton_metrics_port: int = 0
    supervisor_port: int = 0
    balancer_port: int = 0  # of a HAProxy in front of it, where there is one
    address: str = field(default="127.0.0.1", kw_only=True)

    @property
    def healthz(self) -> str:
        return f"http://{self.address}:{self.supervisor_port}/healthz"

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def triton_http(self) -> str:
        return f"{self.address}:{self.triton_http_port}"

    @property
    def triton_grpc(self) -> str:
        return f"{self.address}:{self.triton_grpc_port}"

    @property
    def triton_metrics(self) -> str:
        return f"http://{self.address}:{self.triton_metrics_port}/metrics"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, seconds: float = START_SECONDS, path: str = "/ready") -> None:
        deadline = time.monotonic() + seconds
        while not answers_200(f"{self.url}{path}"):
            if self.process.poll() is not None:
                raise AssertionError(f"ended with status {self.process.returncode} while starting:\n{self.log}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer from {path} after {seconds:.0f} s:\n{self.log}")
            time.sleep(0.1)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of Triton's metrics, summed over the labels that are not given."""
        with urllib.request.urlopen(self.triton_metrics, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
        assert samples, f"Triton has no metric {name}"
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain:\n{self.log}"
            time.sleep(0.02)


def answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def serve(checkpoint: Path | str, **settings: str) -> Iterator[Server]:
    """`python -m standalone`: a real tritonserver with the checkpoint, and the shim; ready when entered."""
    ports = free_ports(len(PORTS))
    at = {name: str(port) for name, port in zip(PORTS, ports, strict=True)}
    env = environment(QWEN_MODEL_DIR=str(checkpoint), **at, **(NO_DRAIN | settings))
    with run([sys.executable, "-m", "standalone"], env, *ports, ends_beside=True) as server:
        server.wait_ready()
        yield server


def serve_shim(
    triton_url: str, *, wait_for: str = "/ready", **settings: str
) -> contextlib.AbstractContextManager[Server]:
    """A further shim in front of a running Triton; with `wait_for="/health"` that need not run."""
    return serve_shim_of(PROJECT, triton_url, settings, wait_for=wait_for)


@contextlib.contextmanager
def serve_shim_of(
    release: Path, triton_url: str, settings: Mapping[str, str], *, wait_for: str = "/ready"
) -> Iterator[Server]:
    """The same of the sources in `release`, on a free port unless the settings name one."""
    port = int(settings.get("PORT", 0)) or free_ports(1)[0]
    at = {"TRITON_URL": triton_url, "PORT": str(port), "PYTHONPATH": str(release)}
    health = {"HEALTH_URL": f"{triton_url}/v2/models/qwen_image_edit/ready"}
    env = environment(**{**NO_DRAIN, **at, **health, **settings})
    with run([sys.executable, "-m", "shim"], env, port, cwd=release) as server:
        server.wait_ready(path=wait_for)
        yield server


@contextlib.contextmanager
def run(
    command: list[str], env: Mapping[str, str], *ports: int, cwd: Path = PROJECT, ends_beside: bool = False
) -> Iterator[Server]:
    """The command as a Server, ended on leaving, beside the next tests where it may. With QUICK the test is left out
    here, whichever way it came."""
    if os.environ.get("QUICK"):
        pytest.skip("starts a server")
    with tempfile.TemporaryDirectory(prefix="qwen-test-") as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield Server(process, log_path, *ports)
        finally:
            ending = Ending(process)
            if not ends_beside:
                ending.wait()


class Ending(threading.Thread):
    """Of a process that has got SIGTERM: a Triton needs seconds for it."""

    begun: ClassVar[list[Ending]] = []

    def __init__(self, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
        super().__init__(name="ending")
        self._process = process
        self._seconds = seconds
        self._late = False
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        self.begun.append(self)
        self.start()

    def run(self) -> None:
        try:
            self._process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            self._late = True
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        self.join()
        assert not self._late, f"{self._process.args!r} did not end within {self._seconds:.0f} s of SIGTERM"
