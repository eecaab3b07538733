"""A balancer in front of a Triton that spoils what a test tells it to spoil."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = b"<html><title>503</title>No server is available. The request failed: queue_full: sorry</html>"
HEADER_LENGTH = "Inference-Header-Content-Length"


class Balancer(ThreadingHTTPServer):
    """`script` names what happens to the next inference calls; those after them are passed on."""

    daemon_threads = True

    def __init__(self, triton_url: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.triton_url = triton_url
        self.script: list[str] = []
        self.calls = 0
        self.bytes = 0  # of their bodies
        self.lose = threading.Event()  # the connection of a call that Triton works on
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next(self, length: int) -> str:
        with self._lock:
            self.calls += 1
            self.bytes += length
            return self.script.pop(0) if self.script else "pass"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A shim that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Balancer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(*self._forward(None))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match self.server.next(len(body)):
            case "pass":
                self._answer(*self._forward(body))
            case "reset":
                self._reset()
            case "page":
                self._answer(503, {}, PAGE)
            case "page with status 200":
                self._answer(200, {}, PAGE)
            case "dead worker":
                self._answer(500, {}, b'{"error": "Failed to process, message: Stub process is not healthy."}')
            case "answer lost":
                self._forward(body)
                self._reset()
            case "lost while at work":
                threading.Thread(target=self._forward, args=(body,), daemon=True).start()
                self.server.lose.wait(60)
                self._reset()
            case "answer cut off":
                status, headers, answer = self._forward(body)
                self._answer(status, headers, answer[: len(answer) // 2])
            case "refusal":
                self._answer(503, {}, b'{"error": "queue_full: 64 edits are waiting or running"}')
            case unknown:
                raise ValueError(unknown)

    def _forward(self, body: bytes | None) -> tuple[int, dict[str, str], bytes]:
        kept = {name: value for name, value in self.headers.items() if name in (HEADER_LENGTH, "Accept-Encoding")}
        request = urllib.request.Request(f"{self.server.triton_url}{self.path}", body, kept)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                length = answer.headers.get(HEADER_LENGTH)
                return answer.status, {HEADER_LENGTH: length} if length else {}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {}, error.read()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def balance(triton_url: str) -> Iterator[Balancer]:
    with Balancer(triton_url) as balancer:
        thread = threading.Thread(target=balancer.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield balancer
        finally:
            balancer.shutdown()
            thread.join()
