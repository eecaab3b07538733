"""A Triton on a port that does no work: it counts the bytes that it holds, and breaks off where a test says so."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from tritonclient.utils import serialize_byte_tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
TIMINGS = {"text_tokens": 5, "image_tokens": 7, "output_tokens": 9}


def answered(**outputs: object) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an answer with these tensors."""
    described, data = [], b""
    for name, value in outputs.items():
        array = np.asarray(value)[None]
        kind = {"i": "INT32", "f": "FP32", "u": "UINT8", "O": "BYTES"}[array.dtype.kind]
        raw = serialize_byte_tensor(array).item() if kind == "BYTES" else array.tobytes()
        described.append(
            {"name": name, "datatype": kind, "shape": array.shape, "parameters": {"binary_data_size": len(raw)}}
        )
        data += raw
    header = json.dumps({"outputs": described}).encode()
    return header + data, {HEADER_LENGTH: str(len(header))}


FINISHED_OUTPUTS: dict[str, object] = {
    "image": np.zeros((4, 6, 3), np.uint8),
    "step": np.array([2], np.int32),
    "num_inference_steps": np.array([2], np.int32),
    "true_cfg_scale": np.array([1], np.float32),
    "seed": np.array([7], np.int32),
    "timings": np.array([json.dumps(TIMINGS).encode()], np.object_),
}
FINISHED = answered(**FINISHED_OUTPUTS)


class HttpTriton(ThreadingHTTPServer):
    """Each call is answered by the next of `script`, (status, message) or "reset"; by a picture when that is over."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, str] | str] = []
        self.seconds = 0.0  # that a call is held
        self.calls: list[str] = []  # their ids, in order; a cancelling one as "cancel" and the id of its victim
        self.parameters: list[dict[str, Any]] = []  # of the calls that are edits
        self.held_bytes = self.most_bytes = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def triton_http(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def supervisor_port(self) -> int:
        """It answers health checks too."""
        return self.server_port

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        with self.lock:
            self.held_bytes += size
            self.most_bytes = max(self.most_bytes, self.held_bytes)
        try:
            yield
        finally:
            with self.lock:
                self.held_bytes -= size

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A shim that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: HttpTriton
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {}, b"")

    def do_POST(self) -> None:
        length = int(self.headers[HEADER_LENGTH])
        size = int(self.headers["Content-Length"])
        with self.server.holding(size):
            header = json.loads(self.rfile.read(length))
            if header["inputs"][0]["name"] == "cancel":
                self.server.calls.append(f"cancel {self.rfile.read(size - length)[4:].decode()}")
                self._answer(200, {}, b"{}")
            else:
                self.server.calls.append(header["id"])
                self.server.parameters.append(header["parameters"])
                self._swallow(size - length)
                time.sleep(self.server.seconds)
                self._say(self.server.script.pop(0) if self.server.script else None)

    def _swallow(self, size: int) -> None:
        while size:
            size -= len(self.rfile.read(min(size, 2**18)))

    def _say(self, said: tuple[int, str] | str | None) -> None:
        if said is None:
            body, headers = FINISHED
            self._answer(200, headers, body)
        elif isinstance(said, tuple):
            self._answer(said[0], {}, json.dumps({"error": said[1]}).encode())
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def http_triton() -> Iterator[HttpTriton]:
    with HttpTriton() as triton:
        thread = threading.Thread(target=triton.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield triton
        finally:
            triton.shutdown()
            thread.join()
