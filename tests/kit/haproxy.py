"""A HAProxy with the configuration that is shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from tests.kit.servers import PROJECT, Server, environment, free_ports, run
from tests.kit.tools import find_program


class Upstream(Protocol):
    """What a balancer is told of a Triton."""

    @property
    def triton_http(self) -> str: ...
    @property
    def supervisor_port(self) -> int: ...


@contextlib.contextmanager
def balancer(*tritons: Upstream) -> Iterator[Server]:
    """In front of them; ready when entered."""
    (port,) = free_ports(1)
    env = environment(BALANCER_ADDRESS="127.0.0.1", BALANCER_PORT=str(port))
    for number, triton in enumerate(tritons, 1):
        env |= {f"TRITON_{number}": triton.triton_http, f"HEALTH_{number}": str(triton.supervisor_port)}
    program = find_program("haproxy")
    assert program
    with run([program, "-db", "-f", str(PROJECT / "haproxy.cfg")], env, port) as proxy:
        proxy.wait_ready(path="/healthz")
        yield proxy
