"""Parts of a running server by name, and servers of several parts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from standalone.observer import workers
from standalone.tritonserver import find
from tests.kit.haproxy import balancer
from tests.kit.servers import Server, answers_200, environment, free_ports, run, serve_shim

SUPERVISOR_PORTS = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "SUPERVISOR_PORT")


def tritonserver(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (found,) = [child for child in children if child.cmdline() and child.cmdline()[0].endswith("/tritonserver")]
    return found


def worker(server: Server) -> psutil.Process:
    (found,) = workers(tritonserver(server).pid)
    return found


def shim(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (found,) = [child for child in children if child.cmdline()[-2:] == ["-m", "shim"]]
    return found


def processes(server: Server) -> dict[str, psutil.Process]:
    return {"shim": shim(server), "tritonserver": tritonserver(server), "worker": worker(server)}


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


@contextlib.contextmanager
def balanced(checkpoint: Path | str, **settings: str) -> Iterator[Balanced]:
    """Two supervised Tritons behind a HAProxy with the shipped configuration, and a shim in front of it."""
    with contextlib.ExitStack() as stack:
        tritons = [stack.enter_context(supervise(checkpoint, **settings)) for _ in range(2)]
        proxy = stack.enter_context(balancer(*tritons))
        front = stack.enter_context(serve_shim(proxy.url, HEALTH_URL=f"{proxy.url}/healthz"))
        yield Balanced(tritons, front, proxy)
