"""Inference requests that Triton's own clients would not send, straight to the running Triton."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.kit.servers import Server

Photo = Callable[[str], bytes]
Tensor = tuple[str, str, list[int], bytes]


def texts(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def edit(picture: bytes, *more: Tensor, **replaced: Tensor) -> list[Tensor]:
    """The smallest edit there is; `replaced` are whole tensors by name, `more` are added."""
    given: dict[str, Tensor] = {
        "image": ("image", "BYTES", [1, 1], texts(picture)),
        "prompt": ("prompt", "BYTES", [1, 1], texts(b"x")),
        "size": ("size", "INT32", [1, 2], struct.pack("<2i", 64, 64)),
        "num_inference_steps": ("num_inference_steps", "INT32", [1, 1], struct.pack("<i", 2)),
    }
    return [*(given | replaced).values(), *more]


PATH = "/v2/models/qwen_image_edit/infer"


def message(tensors: list[Tensor], request_id: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """An inference call's body and headers."""
    described = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, datatype, shape, data in tensors
    ]
    header = json.dumps({"id": "ID", "inputs": described}).encode().replace(b'"ID"', b'"%s"' % request_id)
    body = header + b"".join(data for *_, data in tensors)
    return body, {"Inference-Header-Content-Length": str(len(header))}


def infer(server: Server, tensors: list[Tensor], request_id: bytes = b"") -> requests.Response:
    body, headers = message(tensors, request_id)
    return requests.post(f"http://{server.triton_http}{PATH}", data=body, headers=headers, timeout=30)


def test_a_request_id_that_is_no_text_does_not_matter(stack: Server, photo: Photo) -> None:
    assert infer(stack, edit(photo("cat")), request_id=b"\xff\xfe").status_code == 200


def test_4000_refusals_of_two_threads_do_not_end_triton(stack: Server) -> None:
    """Both count in one metric; without a lock around Triton's objects some hundred were enough to abort it."""
    refused_at_once = message(edit(b"GIF89a", size=("size", "INT32", [1, 2], struct.pack("<2i", 1, 1))))
    refused_when_decoded = message(edit(b"GIF89a"))

    def refusals(messages: list[tuple[bytes, dict[str, str]]]) -> list[int]:
        with contextlib.closing(http.client.HTTPConnection(stack.triton_http, timeout=30)) as connection:
            return [status(connection, *each) for each in messages]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(refusals, [[refused_at_once, refused_when_decoded] * 250] * 8))
    assert statuses == [[400] * 500] * 8


def status(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> int:
    connection.request("POST", PATH, body, headers)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (("image", "BYTES", [1, 0], b""), "invalid: image: 0 reference images"),
        (("image", "BYTES", [1, 1], b"abc"), "incomplete string length"),
        (("image", "BYTES", [1, 1], struct.pack("<I", 2**31) + b"x"), "incomplete string data"),
        (("image", "BYTES", [1, 2**62], texts(b"x")), "expected 4611686018427387904 string elements"),
        (("image", "BYTES", [1, 1], texts(b"GIF89a")), "invalid: image: 6 bytes"),
        (("prompt", "BYTES", [1, 1], texts(b"\xff\xfe")), "invalid: prompt: .* is not UTF-8"),
        (("prompt", "BYTES", [1, 1], texts(b"x" * 100_000)), "invalid: prompt: 100000 characters"),
        (("prompt", "BYTES", [1, 1], texts(b"\0\0")), "invalid: prompt: an empty prompt"),
        (("size", "INT64", [1, 2], bytes(16)), "data-type is 'INT64'"),
        (("size", "INT32", [1, 2], struct.pack("<2i", 2**31 - 1, -(2**31))), "invalid: size: 2147483647x-2147483648"),
        (("size", "INT32", [1, 3], bytes(12)), "unexpected shape"),
        (("num_inference_steps", "INT32", [1, 1], struct.pack("<i", 10**9)), "invalid: num_inference_steps"),
        (("true_cfg_scale", "FP32", [1, 1], struct.pack("<f", float("inf"))), "invalid: true_cfg_scale: inf"),
        (("seed", "INT64", [1, 1], struct.pack("<q", -1)), "invalid: seed: -1"),
        (("start_step", "INT32", [1, 1], struct.pack("<i", 10**9)), "invalid: start_step"),
        (("stop_step", "INT32", [1, 1], struct.pack("<i", -5)), "invalid: stop_step"),
        (("preview", "INT32", [1, 1], struct.pack("<i", 10**6)), "invalid: preview"),
        (("arrival", "FP64", [1, 1], struct.pack("<d", float("nan"))), "invalid: arrival: nan"),
        (("latents", "FP32", [1, 0, 0], b""), "invalid: latents"),
        (("mask", "BYTES", [1, 1], texts(b"\x89PNG\r\n\x1a\n")), "invalid: mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} {value[2]}",
)
def test_a_tensor_that_cannot_be_is_refused_in_words(stack: Server, photo: Photo, tensor: Tensor, message: str) -> None:
    replaced: dict[str, Any] = {tensor[0]: tensor}
    answer = infer(stack, edit(photo("cat"), **replaced))
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]), answer.text
    assert infer(stack, edit(photo("cat"))).status_code == 200
