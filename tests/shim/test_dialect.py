from __future__ import annotations

import io

import pytest
from starlette.datastructures import Headers, UploadFile
from starlette.types import Scope

from shim.dialect import Dialect, dialect_of, dialect_of_headers, dialect_of_parts, hear_parts
from shim.reading.uploads import Part


def upload(size: int = 3) -> UploadFile:
    return UploadFile(io.BytesIO(b"x" * size), size=size, filename="a.png")


@pytest.mark.parametrize(
    ("headers", "dialect"),
    [
        ({}, "classic"),
        ({"authorization": "Basic dTprZXk="}, "classic"),
        ({"content-type": "multipart/form-data; boundary=x"}, "classic"),
        ({"authorization": "Bearer key"}, "openai"),
        ({"authorization": "bearer key"}, "openai"),
        ({"api-key": "key"}, "openai"),
        ({"X-Stainless-Lang": "js"}, "openai"),
        ({"content-type": "application/json; charset=utf-8"}, "openai"),
    ],
    ids=["curl", "basic", "form", "bearer", "bearer in lower case", "azure", "sdk", "json"],
)
def test_the_dialect_before_the_body_is_read(headers: dict[str, str], dialect: Dialect) -> None:
    assert dialect_of_headers(Headers(headers)) == dialect


@pytest.mark.parametrize(
    ("parts", "dialect"),
    [
        ([("image", upload())], "openai"),
        ([("image", upload()), ("image", upload())], "openai"),
        ([("image[]", upload())], "openai"),
        ([("image[]", upload()), ("image[]", upload())], "openai"),
        ([("url", "https://example.org/a.png")], "openai"),
        ([("url[]", "https://example.org/a.png")], "openai"),
        ([("image", "\x89PNG")], "openai"),
        ([("images", upload())], "classic"),
        ([("images", upload()), ("images", upload())], "classic"),
        ([("image", upload()), ("images", upload())], "classic"),
    ],
    ids=[
        "image x1: SDKs with a single file",
        "image xN: Cherry Studio",
        "image[] x1: LiteLLM, LibreChat",
        "image[] xN: SDK lists",
        "url: AIPerf",
        "url[]: SGLang's and vLLM-Omni's clients",
        "image without a filename",
        "images x1: the classic curl",
        "images xN: the classic batch",
        "both",
    ],
)
@pytest.mark.parametrize("by_headers", ["classic", "openai"])
def test_picture_parts_decide_whatever_the_headers_say(
    parts: list[Part], dialect: Dialect, by_headers: Dialect
) -> None:
    assert dialect_of_parts([("prompt", "p"), *parts], by_headers) == dialect


@pytest.mark.parametrize("by_headers", ["classic", "openai"])
@pytest.mark.parametrize("parts", [[], [("images", "text")], [("images[]", "text")], [("mask", upload())]])
def test_without_a_picture_part_the_headers_decide(parts: list[Part], by_headers: Dialect) -> None:
    assert dialect_of_parts(parts, by_headers) == by_headers


def test_the_headers_speak_until_the_parts_have_spoken() -> None:
    scope: Scope = {"type": "http", "path": "/", "headers": [(b"authorization", b"Bearer key")], "state": {}}
    assert dialect_of(scope) == "openai"
    assert scope["state"] == {}
    assert hear_parts(scope, [("images", upload())]) == "classic"
    assert dialect_of(scope) == "classic"
