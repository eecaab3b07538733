"""A HAProxy with the configuration that is shipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from tests.kit.servers import PROJECT, Server, environment, free_ports, run
from tests.kit.tools import find_program


class Upstream(Protocol):
    """What a balancer is told of a Triton."""

    @property
    def triton_http(self) -> str: ...
    @property
    def supervisor_port(self) -> int: ...


def balancer(*tritons: Upstream, **more: str) -> contextlib.AbstractContextManager[Server]:
    """In front of them, with `more` in its environment; ready when entered."""
    told = dict(more)
    for number, triton in enumerate(tritons, 1):
        told |= {f"TRITON_{number}": triton.triton_http, f"HEALTH_{number}": str(triton.supervisor_port)}
    return _run(told)


def resolving_balancer(resolver: str, port: int) -> contextlib.AbstractContextManager[Server]:
    """In front of those that a DNS names, who have edits and health on one port; ready when entered."""
    at = {"TRITON_PORT": str(port), "HEALTH_PORT": str(port)}
    return _run({"TRITON_HOST": "tritons.example", "RESOLVER": resolver, **at})


@contextlib.contextmanager
def _run(told: Mapping[str, str]) -> Iterator[Server]:
    (port,) = free_ports(1)
    env = environment(BALANCER_ADDRESS="127.0.0.1", BALANCER_PORT=str(port), **told)
    program = find_program("haproxy")
    assert program
    with run([program, "-db", "-f", str(PROJECT / "haproxy.cfg")], env, port) as proxy:
        proxy.wait_ready(path="/healthz")
        yield proxy
