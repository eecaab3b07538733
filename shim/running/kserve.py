"""The KServe protocol's inference calls over HTTP, with its binary extension for tensors.

Written here and not by tritonclient, whose `infer` wants the whole body in memory: 200 waiting edits with their
photographs would be gigabytes. Here the pictures go from their files to the socket.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from tritonclient.http import InferenceServerClient

from shim.reading.pictures import Picture

CHUNK_BYTES = 2**18
HEADER_LENGTH = "Inference-Header-Content-Length"

Parameter = float | int | str
NO_PARAMETERS: Mapping[str, Parameter] = {}


@dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    pieces: tuple[bytes | memoryview | Picture, ...]


class Body:
    """An inference request. Blocks where it is made: the files' lengths are asked for."""

    def __init__(
        self, tensors: Sequence[Tensor], request_id: str, parameters: Mapping[str, Parameter] = NO_PARAMETERS
    ) -> None:
        self._id = request_id
        self._parameters = parameters
        sizes = [sum(map(_length, tensor.pieces)) for tensor in tensors]
        self._described = [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": size},
            }
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
        self.tensor_bytes = sum(sizes)
        self._pieces = [piece for tensor in tensors for piece in tensor.pieces]
        self.tell({})

    def tell(self, parameters: Mapping[str, Parameter]) -> None:
        """More of what the model's `parameters()` are."""
        told = {**self._parameters, **parameters, "binary_data_output": True}
        self.header = json.dumps({"id": self._id, "inputs": self._described, "parameters": told}).encode()

    @property
    def length(self) -> int:
        return len(self.header) + self.tensor_bytes

    async def chunks(self) -> AsyncIterator[bytes | memoryview]:
        for piece in (self.header, *self._pieces):
            if isinstance(piece, Picture):
                start = 0
                while chunk := await run_in_threadpool(piece.read, start, CHUNK_BYTES):
                    start += len(chunk)
                    yield chunk
            else:
                view = memoryview(piece)
                for start in range(0, len(view), CHUNK_BYTES):
                    yield view[start : start + CHUNK_BYTES]


def byte_strings(name: str, *values: bytes | Picture) -> Tensor:
    pieces = [piece for value in values for piece in (struct.pack("<I", _length(value)), value)]
    return Tensor(name, "BYTES", (1, len(values)), tuple(pieces))


def numbers(name: str, datatype: str, *values: float) -> Tensor:
    code = {"INT32": "i", "INT64": "q", "FP32": "f", "FP64": "d"}[datatype]
    return Tensor(name, datatype, (1, len(values)), (struct.pack(f"<{len(values)}{code}", *values),))


def _length(piece: bytes | memoryview | Picture) -> int:
    return piece.length() if isinstance(piece, Picture) else len(piece)


class Tensors:
    """Of an answer, by name; raises whatever reading something else raises."""

    def __init__(self, content: bytes, headers: Mapping[str, str]) -> None:
        length = int(headers[HEADER_LENGTH])
        self._result = InferenceServerClient.parse_response_body(content, header_length=length)

    def get(self, name: str) -> Any:
        """Without the batch's dimension; None for what was not answered."""
        value = self._result.as_numpy(name)
        return None if value is None else value[0]


def error_message(text: str) -> str | None:
    """Triton's; None for what is not Triton's answer, a balancer's page for one."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return None
