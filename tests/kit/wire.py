"""What clients send, recorded by a tee between them and a server, kept in tests/data/wires, and sent again.

A recording has what is the same at every run: a client's requests, the status that each got, and what its answer was
made of. Recorded anew without a change of the client, its file has the same bytes.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import h11

WIRES = Path(__file__).resolve().parents[1] / "data" / "wires"
BOUNDARY = b"the-boundary-of-a-recording"
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NIL = b"00000000-0000-0000-0000-000000000000"
# Of one connection, or of the machine on which the client ran.
VOLATILE = re.compile(r"host|content-length|traceparent|x-(request|correlation)-id|x-stainless-(os|arch|.*-version)")
JSON_LENGTH = "inference-header-content-length"  # of KServe's protocol: behind so many bytes tensors follow
KINDS = {str: "text", bool: "truth", int: "number", float: "number", type(None): "null"}


@dataclass(frozen=True)
class Answer:
    """Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def anatomy(self) -> Any:
        """Of JSON the kind of each member, of a stream the names of its events, of all else its type."""
        kind = self.headers.get("content-type", "")
        if kind.startswith("text/event-stream"):
            return re.findall(r"^event: (\S+)", self.body.decode(), re.MULTILINE)
        with contextlib.suppress(ValueError):
            return anatomy(json.loads(self.body[: int(self.headers.get(JSON_LENGTH, len(self.body)))]))
        return kind


def anatomy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: anatomy(member) for name, member in value.items()}
    if isinstance(value, list):
        return [anatomy(member) for member in value]
    return KINDS[type(value)]


def contains(answered: Any, recorded: Any) -> bool:
    """Whether an answer's anatomy has all of a recorded one: it may have more members."""
    if isinstance(recorded, dict) and isinstance(answered, dict):
        return all(name in answered and contains(answered[name], member) for name, member in recorded.items())
    if isinstance(recorded, list) and isinstance(answered, list):
        return len(answered) == len(recorded) and all(map(contains, answered, recorded))
    return bool(answered == recorded)


@dataclass(frozen=True)
class Exchange:
    """A recorded request, the status that it got, and the anatomy of its answer."""

    what: str
    method: str
    target: str
    headers: list[list[str]]
    body: str  # in base64
    status: int
    answer: Any

    def send(self, address: str) -> Answer:
        """To a server at `HOST:PORT`."""
        names = [name for name, _ in self.headers]
        chunked = "transfer-encoding" in names
        body = base64.b64decode(self.body)
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.putrequest(self.method, self.target, skip_accept_encoding=True)
        for name, value in self.headers:
            connection.putheader(name, value)
        if body and not chunked:
            connection.putheader("content-length", str(len(body)))
        with contextlib.closing(connection):
            connection.endheaders([body] if chunked else body, encode_chunked=chunked)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())


def recorded(request: h11.Request, body: bytes, answer: Answer) -> Exchange:
    """Without what differs from run to run; what it is about is still to be said."""
    headers = [[name.decode(), UUID.sub(NIL, value).decode()] for name, value in request.headers]
    for header in headers:
        if boundary := re.search(r"boundary=([^;]+)", header[1]):
            body = body.replace(boundary[1].encode(), BOUNDARY)
            header[1] = header[1].replace(boundary[1], BOUNDARY.decode())
    body = UUID.sub(NIL, body)
    return Exchange(
        what="",
        method=request.method.decode(),
        target=request.target.decode(),
        headers=[header for header in headers if not VOLATILE.fullmatch(header[0])],
        body=base64.b64encode(body).decode(),
        status=answer.status,
        answer=answer.anatomy,
    )


@dataclass(eq=False)
class Connection:
    """All bytes of one connection to a server."""

    sent: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    times: list[tuple[int, float]] = field(default_factory=list)  # how much had been sent when

    def send(self, data: bytes) -> None:
        self.sent += data
        self.times.append((len(self.sent), time.monotonic()))

    def exchanges(self) -> Iterator[tuple[float, Exchange]]:
        """When each began, of those whose answer arrived whole."""
        server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
        server.receive_data(bytes(self.sent))
        client.receive_data(bytes(self.answered))
        while isinstance(request := server.next_event(), h11.Request):
            began = self._time(len(self.sent) - len(server.trailing_data[0]))
            body = _body(server)
            client.send(request)
            client.send(h11.Data(data=body))
            client.send(h11.EndOfMessage())
            while isinstance(response := client.next_event(), h11.InformationalResponse):
                pass
            if not isinstance(response, h11.Response):
                return
            headers = {name.decode(): value.decode() for name, value in response.headers}
            answer = Answer(response.status_code, headers, _body(client))
            if client.their_state not in (h11.DONE, h11.MUST_CLOSE):
                return
            yield began, recorded(request, body, answer)
            server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE or client.our_state is not h11.DONE:
                return
            server.start_next_cycle()
            client.start_next_cycle()

    def _time(self, count: int) -> float:
        """When this many bytes had been sent."""
        return next(at for length, at in self.times if length >= count)


def _body(connection: h11.Connection) -> bytes:
    body = bytearray()
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    return bytes(body)


class Tee(socketserver.ThreadingTCPServer):
    """Listens on a port of its own, hands all bytes over to a server and back, and keeps them."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarding)
        host, _, port = address.rpartition(":")
        self.upstream = host, int(port)
        self.connections: list[Connection] = []
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.url = f"http://{self.address}"

    @property
    def exchanges(self) -> list[Exchange]:
        """In the order in which they began."""
        every = [begun for connection in list(self.connections) for begun in connection.exchanges()]
        return [exchange for _, exchange in sorted(every, key=itemgetter(0))]


class _Forwarding(socketserver.BaseRequestHandler):
    server: Tee

    def handle(self) -> None:
        connection = Connection()
        self.server.connections.append(connection)
        with socket.create_connection(self.server.upstream) as upstream:
            back = threading.Thread(target=_forward, args=(upstream, self.request, connection.answered.extend))
            back.start()
            _forward(self.request, upstream, connection.send)
            back.join()


def _forward(source: socket.socket, target: socket.socket, keep: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):  # either side has left
        while data := source.recv(65536):
            keep(data)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def tee(address: str) -> Iterator[Tee]:
    """In front of the server at `HOST:PORT`."""
    with Tee(address) as tee:
        threading.Thread(target=tee.serve_forever, daemon=True).start()
        yield tee
        tee.shutdown()


def save(client: str, exchanges: Sequence[Exchange], *what: str | None) -> None:
    """As the client's recording, one a line, with what each of them is about; without those that are about None."""
    kept = [replace(exchange, what=name) for exchange, name in zip(exchanges, what, strict=True) if name]
    lines = ",\n".join(json.dumps(asdict(exchange)) for exchange in kept)
    (WIRES / f"{client}.json").write_text(f"[\n{lines}\n]\n")


def load(client: str) -> list[Exchange]:
    return [Exchange(**exchange) for exchange in json.loads((WIRES / f"{client}.json").read_text())]
