"""What a cluster is to our parts, without one: DNS A records that change, a Service, and what the chart renders."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tests.kit.chart import Manifest, environment_of, one, pod_of
from tests.kit.servers import Server, environment, free_ports, run
from tests.kit.tools import find_program

A_RECORD = 1


class Dns:
    """Answers every question for A records with `addresses`; not at all while it is `silent`."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.silent = False
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, client = self._socket.recvfrom(4096)
                self.asked += 1
                if not self.silent:
                    self._socket.sendto(self._answer(question), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5  # of the name, its type and its class
        question = query[12:end]
        wanted = struct.unpack(">H", question[-4:-2])[0] == A_RECORD
        addresses = self.addresses if wanted else []
        head = query[:2] + struct.pack(">HHHHH", 0x8580, 1, len(addresses), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", A_RECORD, 1, 1, 4)
        return head + question + b"".join(record + socket.inet_aton(address) for address in addresses)


class Service:
    """Carries every new connection to one of `ports` in turn, as kube-proxy does; those that are there stay."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._turn = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        port = self.ports[self._turn % len(self.ports)]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # what is open when the Service ends
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(2**16):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(ConnectionError, RuntimeError):
        sink.close()


INGRESS = """
defaults
    mode http
    timeout connect 5s
    timeout client 320s
    timeout server 320s
    timeout check 2s
frontend edits
    bind "127.0.0.1:${PORT}"
    http-request return status 200 if { path /up }
    default_backend shims
backend shims
    option httpchk GET /ready
    default-server check inter 500ms fall 2 rise 1
"""


@contextlib.contextmanager
def ingress(folder: Path, *ports: int) -> Iterator[Server]:
    """A proxy that asks the shims there for their /ready, and whose clients' connections are not theirs."""
    (port,) = free_ports(1)
    configuration = folder / "ingress.cfg"
    servers = [f"    server shim-{number} 127.0.0.1:{number}\n" for number in ports]
    configuration.write_text(INGRESS + "".join(servers))
    program = find_program("haproxy")
    assert program
    with run([program, "-db", "-f", str(configuration)], environment(PORT=str(port)), port) as proxy:
        proxy.wait_ready(path="/up")
        yield proxy


@contextlib.contextmanager
def rendered_balancer(
    manifests: list[Manifest], dns: Dns, folder: Path, *, triton_port: int, health_port: int
) -> Iterator[Server]:
    """The chart's HAProxy, with its sidecar's environment, on free ports; its metrics are on `balancer_port`."""
    (sidecar,) = pod_of(manifests, "shim")["initContainers"]
    port, metrics = free_ports(2)
    configuration = folder / "rendered-haproxy.cfg"
    configuration.write_text(one(manifests, "ConfigMap", "haproxy")["data"]["haproxy.cfg"])
    env = environment(
        **environment_of(sidecar)
        | {"BALANCER_PORT": str(port), "BALANCER_METRICS": f"127.0.0.1:{metrics}", "RESOLVER": dns.at}
        | {"TRITON_PORT": str(triton_port), "HEALTH_PORT": str(health_port)}
    )
    program = find_program("haproxy")
    assert program
    with run([program, "-db", "-f", str(configuration)], env, port) as proxy:
        proxy.balancer_port = metrics
        yield proxy
