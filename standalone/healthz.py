"""GET /healthz: whether edits may be sent to this server, for balancers, orchestrators and the shim's /ready."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CLIENT_SECONDS = 5.0
UNHEALTHY = 503
DRAINING = 404  # what HAProxy's disable-on-404 wants of a server that finishes what it has and takes nothing new


@dataclass(frozen=True)
class Problem:
    """Why no edit should be sent to a server."""

    reason: str
    status: int = UNHEALTHY


class HealthServer(ThreadingHTTPServer):
    """Asks `problem()` for every call: None is 200."""

    daemon_threads = True

    def __init__(self, address: str, port: int, problem: Callable[[], Problem | None]) -> None:
        self.problem = problem
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="healthz", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: HealthServer
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        if self.path != "/healthz":
            self._answer(404, {"status": "no such path"})
            return
        problem = self.server.problem()
        if problem is None:
            self._answer(200, {"status": "ok"})
        else:
            self._answer(problem.status, {"status": "unhealthy", "reason": problem.reason})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...
