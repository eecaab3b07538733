"""Parts of a running server by name, and servers of several parts."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from standalone.observer import workers
from standalone.tritonserver import find
from tests.kit.haproxy import balancer
from tests.kit.servers import NO_DRAIN, PORTS, PROJECT, Server, answers_200, environment, free_ports, run, serve_shim

SUPERVISOR_PORTS = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT", "SUPERVISOR_PORT")


# A launcher on a machine that seems to have two devices, whose servers run on the CPU.
TWO_SERVERS = """
import sys
from standalone import plan
from standalone.__main__ import main
plan.visible_devices = lambda settings, environ: ["", ""]
sys.exit(main())
"""


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


def supervise(checkpoint: Path | str, **settings: str) -> contextlib.AbstractContextManager[Server]:
    """`python -m standalone.supervisor`: a supervised Triton without a shim; healthy when entered."""
    return supervise_at("127.0.0.1", free_ports(len(SUPERVISOR_PORTS)), checkpoint, settings, ends_beside=True)


@contextlib.contextmanager
def supervise_at(
    address: str,
    ports: Sequence[int],
    checkpoint: Path | str,
    settings: Mapping[str, str],
    release: Path = PROJECT,
    *,
    ends_beside: bool = False,
) -> Iterator[Server]:
    """The same where it is wanted, of another release too; it has ended on leaving, unless it may beside the next."""
    at = {name: str(port) for name, port in zip(SUPERVISOR_PORTS, ports, strict=True)} | {"TRITON_ADDRESS": address}
    env = environment(QWEN_MODEL_DIR=str(checkpoint), PYTHONPATH=str(release), **at, **settings)
    command = [sys.executable, "-m", "standalone.supervisor"]
    with run(command, env, 0, *ports, cwd=release, ends_beside=ends_beside) as server:
        server.address = address
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


@contextlib.contextmanager
def serve_two(checkpoint: Path | str, **settings: str) -> Iterator[Server]:
    """`python -m standalone` with two Tritons behind the launcher's own HAProxy; ready when entered.

    The second one's ports lie ten higher than those of the Server.
    """
    first = _free_block()
    names = (*PORTS, "BALANCER_PORT")
    at = {name: str(port) for port, name in enumerate(names, first)}
    env = environment(QWEN_MODEL_DIR=str(checkpoint), **at, **(NO_DRAIN | settings))
    ports = range(first, first + len(PORTS))
    with run([sys.executable, "-c", TWO_SERVERS], env, *ports, ends_beside=True) as server:
        server.wait_ready()
        yield server


def _free_block() -> int:
    """The first of twenty free ports in a row."""
    for first in range(20_000, 30_000, 20):
        with contextlib.ExitStack() as bound, contextlib.suppress(OSError):
            for port in range(first, first + 20):
                bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no twenty free ports in a row")
