"""Servers that stand in for a supervised Triton, by script: for what a balancer makes of its answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LATE_SECONDS = 1.1  # what a packet that was lost and sent again costs


class StandIn(ThreadingHTTPServer):
    """Answers an edit with the port it came to."""

    daemon_threads = True

    def __init__(self, port: int = 0, address: str = "127.0.0.1") -> None:
        super().__init__((address, port), Handler)
        self.health = 200
        self.script: list[str] = []  # what happens to the next health checks
        self.checks = 0
        self.refuses = False
        self.edits = 0
        self.goes_on = threading.Event()  # with the edits it has
        self.goes_on.set()
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    @property
    def triton_http(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def supervisor_port(self) -> int:
        return self.server_port

    def close(self) -> None:
        self.goes_on.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A balancer that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.server.checks += 1
        match self.server.script.pop(0) if self.server.script else "answer":
            case "late":
                time.sleep(LATE_SECONDS)
            case "lost":
                return
        self._answer(self.server.health, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.edits += 1
        self.server.goes_on.wait()
        if self.server.refuses:
            self._answer(503, b'{"error": "draining: the server is stopping"}')
        else:
            self._answer(200, str(self.server.server_port).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def stand_ins(count: int) -> Iterator[list[StandIn]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(StandIn())) for _ in range(count)]
