"""A shim and a model of different releases: what Triton itself says of inputs that the model does not declare."""

from __future__ import annotations

import io
from typing import Any

import pytest
import requests
from starlette.datastructures import UploadFile

from shim.errors import GenerationError
from shim.reading.edit import edit_of
from shim.running.kserve import HEADER_LENGTH, Body, Tensor, byte_strings, numbers
from shim.running.triton import MODEL, refusal
from shim.settings import Settings
from tests.kit.servers import Server

UPLOAD = UploadFile(io.BytesIO(b"x"), size=1, filename="a.png")


@pytest.mark.parametrize(
    "strange",
    [numbers("of_another_release", "FP64", 1.0), numbers("seed", "INT32", 1), numbers("size", "INT32", 1, 2, 3)],
    ids=["unknown", "other type", "other shape"],
)
async def test_an_input_of_another_release_is_final(stack: Server, strange: Tensor) -> None:
    body = Body([byte_strings("image", b"x"), byte_strings("prompt", b"x"), strange], "e.0")
    content = b"".join([bytes(chunk) async for chunk in body.chunks()])
    url = f"http://{stack.triton_http}/v2/models/{MODEL}/infer"
    said: Any = requests.post(url, content, headers={HEADER_LENGTH: str(len(body.header))}, timeout=30)
    (job,) = edit_of([("prompt", "x"), ("image", UPLOAD)], "openai", Settings()).jobs()
    assert isinstance(refusal(said.status_code, said.content, job), GenerationError)
