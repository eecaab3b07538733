from __future__ import annotations

import io

import pytest
from starlette.datastructures import Headers, UploadFile

from shim.errors import Dialect, InvalidInput
from shim.reading.multipart import Part, dialect_of_headers, dialect_of_parts, read_form


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


def test_the_last_of_duplicated_fields_wins() -> None:
    assert read_form([("n", "1"), ("n", "2")], "classic").fields.raw("n") == "2"


def test_brackets_of_extension_names_are_dropped() -> None:
    form = read_form([("seed[]", "7"), ("obj[a]", "x")], "openai")
    assert form.fields.raw("seed") == "7"
    assert form.fields.raw("obj[a]") == "x"


def test_uploads_keep_their_order_over_both_spellings() -> None:
    first, second, third = upload(), upload(), upload()
    form = read_form([("image[]", first), ("image", second), ("mask", upload()), ("image[]", third)], "openai")
    assert form.uploads("image", "image[]") == [first, second, third]


@pytest.mark.parametrize(
    ("name", "param"), [("image", "image"), ("image[]", "image"), ("images", "images"), ("mask", "mask")]
)
def test_a_picture_without_a_filename_is_refused_with_a_hint(name: str, param: str) -> None:
    with pytest.raises(InvalidInput, match="must be a file part, with a filename") as caught:
        read_form([(name, "\x89PNG\r\n")], "openai")
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("image[0]", "137"), ("image[1]", "80")], "image"),
        ([("images[0]", upload())], "images"),
        ([("mask[12]", "1")], "mask"),
    ],
    ids=["a Buffer given to openai-node", "indexed files", "mask"],
)
def test_indexed_pictures_are_refused_with_a_hint(parts: list[Part], param: str) -> None:
    with pytest.raises(InvalidInput, match="toFile") as caught:
        read_form(parts, "openai")
    assert caught.value.param == param
