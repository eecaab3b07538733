"""One bad input: what is sent, where to, and what may come back."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.kit.servers import Server

MODEL = "qwen_image_edit"
SECONDS = 9.0  # within which everything is answered: sooner than by any of the time-outs that end what hangs
PATIENCE = 30.0  # how long a hang is watched
SHIM_STATUSES = (200, 400, 403, 404, 405, 408, 413)
PAGE_STATUSES = (200, 206, 416)  # raw requests may get the page, or a range of it
TRITON_STATUSES = (200, 400, 404)
GRPC_CODES = ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
NO_TIME = re.compile(r"\bqueue_full: ")  # of 503 and UNAVAILABLE, right where a call says how long it will wait
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH = re.compile(rb"(?im)^content-length: (\d+)")
CONTINUE = re.compile(rb"^HTTP/1\.1 100 [^\r]*\r\n\r\n")
LONG = re.compile(r"\S{100,}")
LEAKS = re.compile(r"Traceback|File \"|\.py\b|/tmp/|/usr/|/root/|/home/|site-packages|0x[0-9a-f]{8,}")


@dataclass(frozen=True)
class Answer:
    status: int | str  # "closed": the connection was closed without an answer
    body: bytes
    seconds: float


@dataclass(frozen=True)
class Call:
    """`kind` names what was done to it."""

    kind: str

    def send(self, server: Server) -> Answer:
        raise NotImplementedError

    def problem(self, answer: Answer) -> str | None:
        raise NotImplementedError

    def shown(self) -> str:
        """Its values with long ones cut."""
        return LONG.sub(lambda match: f"{match[0][:80]}…", repr(self))[:2000]


@dataclass(frozen=True)
class Posted(Call):
    """To the shim, well-formed as far as HTTP goes."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()

    def send(self, server: Server) -> Answer:
        headers = {"content-type": self.content_type, **dict(self.headers)}
        return post(server.port, "/v1/images/edits", self.body, headers)

    def problem(self, answer: Answer) -> str | None:
        return problem_of_shim(answer, SHIM_STATUSES)


@dataclass(frozen=True)
class Raw(Call):
    """Bytes to the shim's port; then the sending side is shut, so that nothing may be waited for."""

    pieces: tuple[bytes, ...]

    def send(self, server: Server) -> Answer:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            try:
                for piece in self.pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: connection.recv(2**16), b""))
            except OSError:  # reset, or too late: the seconds tell
                received = b""
        seconds = time.monotonic() - started
        head, _, body = CONTINUE.sub(b"", received).partition(b"\r\n\r\n")
        status, length = STATUS.match(head), LENGTH.search(head)
        if not status:
            return Answer("closed", received, seconds)
        return Answer(int(status[1]), body[: int(length[1])] if length else body, seconds)

    def problem(self, answer: Answer) -> str | None:
        """Of the first answer; closing without one is right where the request is not whole."""
        if answer.status == "closed":
            return f"closed with {answer.body!r}" if answer.body else None
        if answer.status in PAGE_STATUSES:
            return None
        if answer.status in SHIM_STATUSES and self.pieces[0].startswith(b"HEAD "):
            return None
        return problem_of_shim(answer, SHIM_STATUSES)


Tensor = tuple[str, str, tuple[int, ...], bytes]  # name, datatype, shape, data


@dataclass(frozen=True)
class Inferred(Call):
    """To Triton over HTTP, well-formed as far as the protocol goes."""

    tensors: tuple[Tensor, ...]
    request_id: str = ""
    parameters: tuple[tuple[str, int | bool | str], ...] = ()

    def send(self, server: Server) -> Answer:
        described = [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, datatype, shape, data in self.tensors
        ]
        parameters = {"binary_data_output": True, **dict(self.parameters)}
        header = json.dumps({"id": self.request_id, "inputs": described, "parameters": parameters}).encode()
        return infer(server.triton_http_port, header, b"".join(data for *_, data in self.tensors))

    def problem(self, answer: Answer) -> str | None:
        return problem_of_triton(answer)


@dataclass(frozen=True)
class Malformed(Call):
    """To Triton over HTTP, as no client of Triton's sends it; through the balancer, which knows whose fault it is."""

    header: bytes
    data: bytes = b""
    header_length: str | None = None

    def send(self, server: Server) -> Answer:
        return infer(server.balancer_port, self.header, self.data, self.header_length)

    def problem(self, answer: Answer) -> str | None:
        return problem_of_triton(answer)


@dataclass(frozen=True)
class Rpc(Call):
    """To Triton over gRPC."""

    tensors: tuple[Tensor, ...]
    request_id: str = ""

    def send(self, server: Server) -> Answer:
        request = service_pb2.ModelInferRequest(model_name=MODEL, id=self.request_id)
        for name, datatype, shape, data in self.tensors:
            request.inputs.add(name=name, datatype=datatype, shape=shape)
            request.raw_input_contents.append(data)
        started = time.monotonic()
        try:
            stub(server.triton_grpc).ModelInfer(request, timeout=PATIENCE)
            code, details = "OK", "-"
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
        return Answer(code, details.encode(), time.monotonic() - started)

    def problem(self, answer: Answer) -> str | None:
        text = answer.body.decode("utf-8", "replace")
        if answer.status == "UNAVAILABLE" and NO_TIME.search(text):
            return None
        if answer.status not in GRPC_CODES or not text or LEAKS.search(text):
            return f"{answer.status}: {text}"
        return None


class PerThread(threading.local):
    """A thread's own connections, which are kept from call to call."""

    def __init__(self) -> None:
        self.connections: dict[int, http.client.HTTPConnection] = {}
        self.channels: dict[str, grpc.Channel] = {}


ours = PerThread()


def close_connections() -> None:
    """Those of the calling thread."""
    for connection in ours.connections.values():
        connection.close()
    for channel in ours.channels.values():
        channel.close()
    ours.connections.clear()
    ours.channels.clear()


def connection(port: int) -> http.client.HTTPConnection:
    """The one that was kept, opened anew where it was left idle for so long that the server has closed it."""
    kept = ours.connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
    if kept.sock and select.select([kept.sock], [], [], 0)[0]:
        kept.close()
    return kept


def stub(address: str) -> service_pb2_grpc.GRPCInferenceServiceStub:
    if address not in ours.channels:
        ours.channels[address] = grpc.insecure_channel(address)
    return service_pb2_grpc.GRPCInferenceServiceStub(ours.channels[address])


def post(port: int, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    started = time.monotonic()
    used = connection(port)
    try:
        used.request("POST", path, body, headers)
        response = used.getresponse()
        answer: int | str = response.status
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        answer, content = "closed", repr(error).encode()
        used.close()
    return Answer(answer, content, time.monotonic() - started)


def infer(port: int, header: bytes, data: bytes, header_length: str | None = None) -> Answer:
    length = str(len(header)) if header_length is None else header_length
    headers = {"Inference-Header-Content-Length": length}
    return post(port, f"/v2/models/{MODEL}/infer", header + data, headers)


def problem_of_shim(answer: Answer, statuses: Sequence[int]) -> str | None:
    text = answer.body.decode("utf-8", "replace")
    if answer.status not in statuses:
        return f"{answer.status}: {text[:500]}"
    if answer.status == 200:
        return None if '"b64_json"' in text else f"200 without a picture: {text[:500]}"
    try:
        error = json.loads(text)
        message = error["error"]["message"] if isinstance(error["error"], dict) else error["message"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status}, not an error of ours: {text[:500]}"
    return None if message and not LEAKS.search(message) else f"{answer.status}, empty or leaking: {message!r}"


def problem_of_triton(answer: Answer) -> str | None:
    text = answer.body.decode("utf-8", "replace")
    if answer.status == 503 and NO_TIME.search(text):
        return None
    if answer.status not in TRITON_STATUSES:
        return f"{answer.status}: {text[:500]}"
    if answer.status == 200:
        return None
    try:
        message = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} without an error: {text[:500]}"
    return None if message and not LEAKS.search(message) else f"{answer.status}, empty or leaking: {message!r}"


def texts(*values: bytes) -> bytes:
    """A BYTES tensor's data."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)
