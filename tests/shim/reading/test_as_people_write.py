"""Requests that are not quite what the contract says, and can only mean one thing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

EDITS = "/v1/images/edits"
BOUNDARY = "B0"
Serve = Callable[..., TestClient]


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """Triton is away: what can be read is 503."""
    return serve()


def sent(client: TestClient, *parts: bytes, preamble: bytes = b"") -> tuple[int, str]:
    body = preamble + b"".join(b"--B0\r\n" + part + b"\r\n" for part in parts) + b"--B0--\r\n"
    answer = client.post(EDITS, content=body, headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"})
    return answer.status_code, answer.text


def part(name: str, content: bytes, *more: str, kind: str = "") -> bytes:
    disposition = "; ".join([f'Content-Disposition: form-data; name="{name}"', *more])
    return f"{disposition}\r\n{kind}\r\n".encode() + content


PROMPT = part("prompt", b"blue")


def picture(name: str, content: bytes) -> bytes:
    return part(name, content, 'filename="a.png"')


def test_files_numbered_as_php_does_are_references_and_a_mask(client: TestClient, png: bytes) -> None:
    assert sent(client, PROMPT, picture("image[0]", png), picture("image[1]", png), picture("mask[0]", png))[0] == 503
    status, told = sent(client, PROMPT, *[picture(name, png) for name in ("image[0]", "mask[0]", "markup[0]")])
    assert (status, "exclude each other" in told) == (400, True)
    status, told = sent(client, PROMPT, *[picture(f"image[{number}]", png) for number in range(17)])
    assert (status, "takes at most 16 references" in told) == (400, True)
    status, told = sent(client, PROMPT, picture("images[0]", png))
    assert (status, "ambiguous" in told) == (400, True)
    status, told = sent(client, PROMPT, part("image[0]", b"137"))
    assert (status, "toFile" in told) == (400, True)


def test_a_file_may_have_its_name_in_the_newer_parameter_alone(client: TestClient, png: bytes) -> None:
    assert sent(client, PROMPT, part("image", png, "filename*=utf-8''a.png"))[0] == 503


def test_text_before_the_first_boundary_is_ignored(client: TestClient, png: bytes) -> None:
    parts = PROMPT, picture("image", png)
    assert sent(client, *parts, preamble=b"This is a message with several parts.\r\n")[0] == 503
    assert sent(client, *parts, preamble=b"\r\n")[0] == 503
    status, told = sent(client, *parts, preamble=b"x" * 2**15 + b"\r\n")
    assert (status, "no boundary in its first" in told) == (400, True)
    assert sent(client, *parts, preamble=b"--B0 is what divides them\r\n")[0] == 400


def test_a_part_in_another_charset_is_refused_by_its_name(client: TestClient, png: bytes) -> None:
    chinese = part("prompt", "蓝色".encode("gbk"), kind="Content-Type: text/plain; charset=gbk\r\n")
    status, told = sent(client, chinese, picture("image", png))
    assert (status, "must be utf-8, got 'gbk'" in told) == (400, True)
    plain = part("prompt", "蓝色".encode(), kind="Content-Type: text/plain; charset=UTF-8\r\n")
    assert sent(client, plain, picture("image", png))[0] == 503


def test_what_charset_a_picture_is_in_matters_to_nobody(client: TestClient, png: bytes) -> None:
    """libmagic says it of every file, and PHP's finfo with it."""
    binary = part("image", png, 'filename="a.png"', kind="Content-Type: image/png; charset=binary\r\n")
    assert sent(client, PROMPT, binary)[0] == 503


def test_a_file_of_no_bytes_is_told_and_an_input_without_a_file_is_none(client: TestClient, png: bytes) -> None:
    status, told = sent(client, PROMPT, picture("image", b""))
    assert (status, "image is empty: the file has no bytes" in told) == (400, True)
    assert sent(client, PROMPT, picture("image", png), part("mask", b"", 'filename=""'))[0] == 503


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_format", "PNG"), ("output_format", "JPG"), ("output_format", "jpg"), ("output_format", "WebP"),
        ("size", "128*128"), ("size", "128×128"), ("size", "128X128"), ("seed", "-1"), ("num_inference_steps", "1"),
        ("background", "Auto"),
    ],
)  # fmt: skip
def test_a_value_may_be_written_in_other_ways(client: TestClient, png: bytes, name: str, value: str) -> None:
    assert sent(client, PROMPT, part(name, value.encode()), picture("image", png))[0] == 503


def in_json(client: TestClient, **members: Any) -> tuple[int, str]:
    answer = client.post(
        EDITS, content=json.dumps({"prompt": "blue", **members}), headers={"content-type": "application/json"}
    )
    return answer.status_code, answer.text


def test_in_json_numbers_may_be_strings_and_a_picture_one_address(client: TestClient, png: bytes) -> None:
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    for pictures in ({"image": url}, {"image": [url]}, {"images": url}, {"images": [url, {"image_url": url}]}):
        assert in_json(client, **pictures)[0] == 503
    assert in_json(client, image=url, n="2", seed="7", true_cfg_scale="1.5", stream="false")[0] == 503
    status, told = in_json(client, image=url, n="two")
    assert (status, "n must be an integer from 1 to 10, got 'two'" in told) == (400, True)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_base64_may_be_for_addresses_without_padding_and_in_lines(client: TestClient, png: bytes, length: int) -> None:
    encoded = base64.urlsafe_b64encode(png + bytes(length)).decode()
    wrapped = "\r\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    for text in (encoded, encoded.rstrip("="), wrapped, wrapped.rstrip("=")):
        assert in_json(client, image=f"data:image/png;base64,{text}")[0] == 503


def test_a_preflight_may_ask_for_openais_headers_and_a_private_network(serve: Serve) -> None:
    client = serve(CORS_ORIGINS="https://a.example")
    asked = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,openai-organization,openai-project,user-agent",
        "access-control-request-private-network": "true",
    }
    answer = client.options(EDITS, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-private-network"] == "true"
