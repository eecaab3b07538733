"""Parts of a running server by name, and servers of several parts."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from servers import PROJECT, Server, answers_200, environment, free_ports, run, serve_shim

from standalone.observer import workers
from standalone.tritonserver import find

SUPERVISOR_PORTS = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "SUPERVISOR_PORT")


def tritonserver(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (found,) = [child for child in children if child.cmdline() and child.cmdline()[0].endswith("/tritonserver")]
    return found


def worker(server: Server) -> psutil.Process:
    (found,) = workers(tritonserver(server).pid)
    return found


@contextlib.contextmanager
def supervise(checkpoint: Path | str, **settings: str) -> Iterator[Server]:
    """`python -m standalone.supervisor`: a supervised Triton without a shim; healthy when entered."""
    ports = free_ports(len(SUPERVISOR_PORTS))
    at = {name: str(port) for name, port in zip(SUPERVISOR_PORTS, ports, strict=True)}
    env = environment(QWEN_MODEL_DIR=str(checkpoint), **at, **settings)
    with run([sys.executable, "-m", "standalone.supervisor"], env, 0, *ports) as server:
        server.wait_for(lambda: server.process.poll() is not None or answers_200(server.healthz), seconds=120)
        assert server.process.poll() is None, server.log
        yield server


class Upstream(Protocol):
    """What a balancer is told of a Triton."""

    @property
    def triton_http(self) -> str: ...
    @property
    def supervisor_port(self) -> int: ...


def installed_tritonserver(folder: Path) -> dict[str, str]:
    """The environment where a tritonserver is installed into `folder` and PATH names no python of ours."""
    unpacked = find()
    binary = folder / "tritonserver"
    binary.write_text(f'#!/bin/sh\nexec {unpacked.binary} --backend-directory={unpacked.backends} "$@"\n')
    binary.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "LD_LIBRARY_PATH": os.pathsep.join(unpacked.library_path)}


@dataclass
class Balanced:
    tritons: list[Server]
    shim: Server
    haproxy: Server


def haproxy() -> str | None:
    return shutil.which("haproxy", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@contextlib.contextmanager
def balancer(*tritons: Upstream) -> Iterator[Server]:
    """A HAProxy with the shipped configuration in front of them."""
    (port,) = free_ports(1)
    env = environment(BALANCER_ADDRESS="127.0.0.1", BALANCER_PORT=str(port))
    for number, triton in enumerate(tritons, 1):
        env |= {f"TRITON_{number}": triton.triton_http, f"HEALTH_{number}": str(triton.supervisor_port)}
    binary = haproxy()
    assert binary
    with run([binary, "-db", "-f", str(PROJECT / "haproxy.cfg")], env, port) as proxy:
        proxy.wait_ready(path="/healthz")
        yield proxy


@contextlib.contextmanager
def balanced(checkpoint: Path | str, **settings: str) -> Iterator[Balanced]:
    """Two supervised Tritons behind a HAProxy with the shipped configuration, and a shim in front of it."""
    with contextlib.ExitStack() as stack:
        tritons = [stack.enter_context(supervise(checkpoint, **settings)) for _ in range(2)]
        proxy = stack.enter_context(balancer(*tritons))
        shim = stack.enter_context(serve_shim(proxy.url, HEALTH_URL=f"{proxy.url}/healthz"))
        yield Balanced(tritons, shim, proxy)
