"""The exact multipart bodies that SDKs and applications send, recorded from them, written out by hand.

One row for each client and shape: what it sends, and the edit that it must get.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from tests.clients.conftest import KEY, Service

BOUNDARY = "boundary0123456789"
PATH = "/v1/images/edits"
OCTETS = "application/octet-stream"
Photo = Callable[[str], bytes]


@dataclass(frozen=True)
class Part:
    """One part of a body: its header lines, and a text, or None for the photograph."""

    head: tuple[str, ...]
    body: str | None = None


@dataclass(frozen=True)
class Row:
    name: str
    parts: tuple[Part, ...]
    references: int = 1
    outputs: int = 1
    path: str = PATH
    headers: dict[str, str] = field(default_factory=dict)  # in place of the Bearer key
    chunked: bool = False
    refused: str | None = None  # the param of a 400


def disposition(name: str, filename: str | None = None) -> str:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{file}'


def text(name: str, value: str) -> Part:
    return Part((disposition(name),), value)


def texts(**values: str) -> tuple[Part, ...]:
    return tuple(text(name, value) for name, value in values.items())


def aiohttp_texts(**values: str) -> tuple[Part, ...]:
    """aiohttp gives texts a type, and that first."""
    return tuple(Part(("Content-Type: text/plain; charset=utf-8", disposition(n)), v) for n, v in values.items())


def file(name: str, filename: str | None, kind: str | None = None) -> Part:
    head = (disposition(name, filename),)
    return Part(head if kind is None else (*head, f"Content-Type: {kind}"))


P = texts(prompt="make it a drawing")
SDK = {"x-stainless-lang": "python", "accept": "application/json"}
NODE = {"x-stainless-lang": "js", "accept": "application/json"}

OPENAI_PYTHON = [
    Row("one file", (*P, file("image", "a.png", "image/png"))),
    Row("bytes", (*P, file("image", "upload", OCTETS))),
    Row("BytesIO with a name", (*P, file("image", "x.jpg", "image/jpeg"))),
    Row("tuple with a wrong type", (*P, file("image", "x.png", "image/webp"))),
    Row("tuple without a filename", (*P, file("image", None, "image/png")), refused="image"),
    Row("list of one", (*P, file("image[]", "upload", OCTETS))),
    Row("list of three", (*P, *(file("image[]", "upload", OCTETS),) * 3), references=3),
    Row("empty list", P, refused="image"),
    Row("unicode and quotes in the filename", (*P, file("image", "日本 %22q%22.png", "image/png"))),
    Row("markup", (*P, file("image", "a.png", "image/png"), file("markup", "m.png", "image/png"))),
    Row(
        "scalars",
        (*P, *texts(n="2", size="64x64", stream="false", partial_images="0"), file("image", "upload", OCTETS)),
        outputs=2,
    ),
    Row("svg", (*P, text("svg[model]", "x"), file("image", "upload", OCTETS)), refused="svg"),
    Row("nested svg", (*P, text("svg[reasoning][effort]", "x"), file("image", "upload", OCTETS)), refused="svg"),
    Row(
        "extra_body",
        (
            *(*P, *texts(seed="42", true_cfg_scale="1.5", flag="true", empty="", raw=r"b'\x89PNG'")),
            *(text("lst[]", "1"), text("lst[]", "2"), text("obj[a]", "1"), text("obj[b][c]", "x")),
            *(text("objs[][k]", "1"), text("objs[][k]", "2"), file("image", "upload", OCTETS)),
        ),
    ),
    Row("extra_body with a list for a scalar", (*P, text("seed[]", "42"), file("image", "upload", OCTETS))),
    Row(
        "extra_body with images",
        (*P, text("images[]", "a.png"), file("image", "upload", OCTETS)),
        refused="images",
    ),
    Row("a base URL without /v1", (*P, file("image", "upload", OCTETS)), path="/images/edits"),
    Row(
        "Azure",
        (*P, *texts(model="gpt-image-1"), file("image", "upload", OCTETS)),
        path="/openai/deployments/gpt-image-1/images/edits?api-version=2025-04-01-preview",
        headers={"api-key": KEY},
    ),
]

OPENAI_NODE = [
    Row("file stream", (*P, file("image", "a.png", OCTETS)), chunked=True),
    Row("toFile", (*P, file("image", "unknown_file", OCTETS))),
    Row("File without a type", (*P, file("image", "f.png", OCTETS))),
    Row("Blob", (*P, file("image", "blob", "image/png"))),
    Row("Blob that 6.49 drops", P, refused="image"),
    Row("array of two", (*P, *(file("image[]", "a.png", OCTETS),) * 2), references=2),
    Row(
        "Buffer",
        (*P, *(text(f"image[{index}]", str(byte)) for index, byte in enumerate(b"\x89PNG\r\n"))),
        refused="image",
    ),
    Row("newlines in the prompt", (text("prompt", "make it\r\na drawing"), file("image", "a.png", OCTETS))),
    Row(
        "extra keys",
        (*P, text("lst[]", "1"), text("obj[a]", "1"), text("objs[][k]", "1"), file("image", "a.png", OCTETS)),
    ),
]

WEB_UI = aiohttp_texts(model="qwen", prompt="make it a drawing", n="1", size="64x64", response_format="b64_json")
LOBE = texts(
    model="qwen", prompt="p", n="1", input_fidelity="high", width="64", height="64", seed="1", cfg="1.5", steps="2",
    aspectRatio="1:1",
)  # fmt: skip
AIPERF = aiohttp_texts(prompt="p", model="qwen", response_format="b64_json", n="1", extra="['a', {'b': None}]")
GPU_STACK = texts(
    model="qwen", prompt="p", cfg_scale="1.5", sampling_steps="2", guidance="3.5", seed="1", negative_prompt="blurry",
    strength="0.5", sample_method="euler", schedule_method="default",
)  # fmt: skip
APPLICATIONS = [
    Row("Open WebUI, one", (*WEB_UI, file("image", "0b8a-4a5e.png", "image/png"))),
    Row("Open WebUI, a chat", (*WEB_UI, file("image[]", "0b8a-4a5e.png", "image/png")), path=f"{PATH}?api-version=x"),
    Row(
        "Open WebUI, a gpt-image model", (*WEB_UI[:-1], *(file("image[]", "0b8a.png", "image/png"),) * 2), references=2
    ),
    Row("LiteLLM", (*P, *texts(model="qwen", n="1", l="1"), file("image[]", "/some/dir/a.png", "image/png"))),
    Row("LiteLLM, several", (*P, text("o[a]", "1"), *(file("image[]", "image.png", "image/png"),) * 2), references=2),
    Row(
        "LibreChat",
        (*texts(model="gpt-image-1", prompt="p", quality="auto", size="auto"), *(file("image[]", "a.png"),) * 2),
        references=2,
        chunked=True,
    ),
    Row("LibreChat, Azure", (*P, text("size", "auto"), file("image[]", "a.png")), headers={"api-key": KEY}),
    Row("LobeChat", (*LOBE, file("image", "image.png", "image/png"))),
    Row("LobeChat, several", (*LOBE, *(file("image[]", "image.png", "image/png"),) * 2), references=2),
    Row(
        "Cherry Studio, painting",
        (
            *P,
            *texts(model="qwen", background="auto", quality="auto", moderation="low"),
            *(file("image", "a.png", "image/png"),) * 2,
        ),
        references=2,
    ),
    Row("Cherry Studio, chat", (*P, *texts(model="qwen"), file("image[]", "image.png", OCTETS))),
    Row("Vercel AI SDK", (*texts(model="qwen", prompt="p", n="1", size="64x64"), file("image", "blob", "image/png"))),
    Row(
        "Vercel AI SDK, several",
        (*texts(model="qwen", prompt="p", n="2", opts="[object Object]"), *(file("image[]", "blob", "image/png"),) * 2),
        references=2,
        outputs=2,
    ),
    Row("AIPerf", (*AIPERF, file("image", "image.png", "image/png"))),
    Row("AIPerf, an address", (*AIPERF, Part(("Content-Type: text/plain; charset=utf-8", disposition("url"))))),
    Row(
        "n8n, a gpt-image model",
        (
            *P,
            *texts(model="gpt-image-1", n="1", size="64x64", quality="auto"),
            *(file("image[]", "a.png", "image/png"),) * 2,
        ),
        references=2,
    ),
    Row(
        "n8n, another model",
        (
            *P,
            *texts(model="dall-e-2", n="1", size="64x64", response_format="b64_json"),
            file("image", "a.png", "image/png"),
        ),
    ),
    Row(
        "Dify",
        (*P, *texts(model="gpt-image-1", n="1", size="auto", quality="auto"), file("image", "a.png", "image/png")),
    ),
    Row(
        "Dify, several",
        (*P, *texts(model="gpt-image-1", n="1"), *(file("image[]", "a.png", "image/png"),) * 2),
        references=2,
    ),
    Row("Dify, gpustack", (*GPU_STACK, file("image", "a.png", "image/png"))),
    Row("go-openai", (file("image", "a.png", OCTETS), *P, *texts(n="0", size="", response_format=""))),
    Row("openai-go", (file("image[]", "anonymous_file", OCTETS), *P), chunked=True),
    Row("openai-dotnet", (*P, file("image", "a.png", "image/png"))),
    Row("async-openai", (*P, *(file("image[]", "a.png", OCTETS),) * 2), references=2),
    Row(
        "SGLang's and vLLM-Omni's scripts",
        (*P, *texts(generator_device="cpu", num_inference_steps="2"), *(Part((disposition("url[]"),)),) * 2),
        references=2,
    ),
]


CAT = file("image", "cat.jpg", "image/jpeg")
WIRE = [
    Row("a repeated field: the last wins", (*P, text("n", "1"), text("n", "2"), CAT), outputs=2),
    Row("empty fields", (*P, *texts(n="", size="", seed="", steps="", output_format="", stream=""), CAT)),
    Row("an empty file", (*P, CAT, Part((disposition("mask", ""), f"Content-Type: {OCTETS}"), ""))),
    Row("headers of a part in another order", (*P, Part((f"Content-Type: {OCTETS}", disposition("image", "a"))))),
    Row("names of headers in lower case", (*P, Part((disposition("image", "a.png").lower(), "content-type: x/y")))),
    Row("a filename that is a path", (*P, file("image", "../../etc/passwd", "image/png"))),
    Row("a wrong type", (*P, file("image", "a.svg", "image/svg+xml"))),
    Row("a prompt in another script", (text("prompt", "把猫画成水彩"), CAT)),
    Row(
        "base64 under Content-Transfer-Encoding",
        (*P, Part((disposition("image", "a.png"), "Content-Transfer-Encoding: base64"), "iVBORw0KGgo=")),
        refused="image",
    ),
]


def body_of(row: Row, photo: bytes) -> bytes:
    """A part without a text is the photograph, as a data: URL where an address is asked for."""
    address = b"data:image/jpeg;base64," + base64.b64encode(photo)
    body = b""
    for part in row.parts:
        picture = address if 'name="url' in part.head[-1] else photo
        if any('name="markup"' in line for line in part.head):
            picture = drawing_over(photo)
        content = picture if part.body is None else part.body.encode()
        body += f"--{BOUNDARY}\r\n".encode() + "\r\n".join(part.head).encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def drawing_over(photo: bytes) -> bytes:
    """A red stroke on a transparent layer of the photograph's size."""
    layer = Image.new("RGBA", Image.open(io.BytesIO(photo)).size)
    layer.paste((255, 0, 0, 255), (0, 0, layer.width // 2, 8))
    file = io.BytesIO()
    layer.save(file, "PNG")
    return file.getvalue()


def post(service: Service, row: Row, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)
    key = row.headers or {"Authorization": f"Bearer {service.key}"}
    given = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers, **key}
    sent: bytes | Iterable[bytes] = (body[i : i + 5000] for i in range(0, len(body), 5000)) if row.chunked else body
    connection.request("POST", row.path, sent, given)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def check(service: Service, row: Row, photo: Photo, **headers: str) -> None:
    status, answer = post(service, row, body_of(row, photo("cat")), **headers)
    if row.refused:
        assert (status, answer["error"]["param"]) == (400, row.refused), answer
    else:
        assert status == 200, answer
        assert len(answer["data"]) == row.outputs
        assert answer["usage"]["input_images"] == row.references


@pytest.mark.parametrize("row", OPENAI_PYTHON, ids=lambda row: row.name)
def test_openai_python(service: Service, photo: Photo, row: Row) -> None:
    check(service, row, photo, **SDK)


@pytest.mark.parametrize("row", OPENAI_NODE, ids=lambda row: row.name)
def test_openai_node(service: Service, photo: Photo, row: Row) -> None:
    check(service, row, photo, **NODE)


@pytest.mark.parametrize("row", APPLICATIONS, ids=lambda row: row.name)
def test_applications(service: Service, photo: Photo, row: Row) -> None:
    check(service, row, photo)


@pytest.mark.parametrize("row", WIRE, ids=lambda row: row.name)
def test_traps_of_the_wire(service: Service, photo: Photo, row: Row) -> None:
    check(service, row, photo)
