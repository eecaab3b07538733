"""Ports that are taken, told before anything is started."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from standalone.errors import LaunchError
from standalone.plan import Plan


@dataclass(frozen=True)
class Wanted:
    """A port to listen on, and the settings that say which and where."""

    name: str
    host_name: str
    host: str
    port: int


def ports_of(plans: list[Plan]) -> list[Wanted]:
    """Of all supervised servers."""
    return [
        Wanted(name, "TRITON_ADDRESS", plan.settings.triton_address, port)
        for plan in plans
        for name, port in plan.settings.server_ports.items()
    ]


def refuse_taken_ports(wanted: list[Wanted]) -> None:
    by_port: dict[int, str] = {}
    for each in wanted:
        if each.port in by_port:
            raise LaunchError(
                f"{each.name}={each.port} is the same port as {by_port[each.port]}: set one of them to another port"
            )
        by_port[each.port] = each.name
        _refuse_taken(each)


def _refuse_taken(wanted: Wanted) -> None:
    host, port = wanted.host, wanted.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise LaunchError(f"{wanted.host_name}={host!r} is not an address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = f"port {port} on {host} cannot be used ({error.strerror})"
            raise LaunchError(f"{reason}: stop what listens there, or set {wanted.name}") from None
