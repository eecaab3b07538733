"""Addresses to listen on, of both kinds, and what reaches those who do."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from standalone.healthz import HealthServer
from standalone.probe import answers_200
from standalone.settings import Settings
from standalone.tritonserver import Access, TritonServer

ADDRESSES = {  # → the host by which this machine reaches it
    "127.0.0.1": "127.0.0.1",
    "0.0.0.0": "127.0.0.1",
    "::1": "[::1]",
    "::": "[::1]",  # uvicorn's and Triton's servers hear no IPv4 there
    "2001:db8::1": "[2001:db8::1]",
    "localhost": "localhost",
}


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize(("address", "host"), ADDRESSES.items())
def test_an_address_is_reached_by_itself_or_as_this_machines_own(address: str, host: str) -> None:
    assert Settings(host=address).shim_url == f"http://{host}:8000"
    assert Settings(triton_address=address).triton_url == f"http://{host}:8010"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost", "::1", "::"])
def test_healthz_answers_where_it_is_asked(address: str) -> None:
    if ":" in address and not has_ipv6():
        pytest.skip("no IPv6 here")
    with contextlib.closing(HealthServer(address, 0, lambda: None)) as server:
        assert answers_200(replace(Settings(triton_address=address), supervisor_port=server.server_port).health_url)


@pytest.mark.parametrize(
    ("address", "http", "grpc"), [("0.0.0.0", "0.0.0.0", "0.0.0.0"), ("::1", "ipv6:::1", "[::1]")], ids=["4", "6"]
)
def test_triton_is_told_an_address_as_its_servers_write_it(address: str, http: str, grpc: str) -> None:
    server = TritonServer(Path("/bin/true"), backends=None, library_path=())
    command = server.command(Settings(triton_address=address), "", "p_", Access("key"))
    told = {flag.split("=", 1)[0]: flag.split("=", 1)[1] for flag in command if "-address=" in flag}
    assert told == {"--http-address": http, "--metrics-address": http, "--grpc-address": grpc}
