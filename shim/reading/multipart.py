"""A request's body → its text fields and files, and the dialect they speak."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from shim.errors import Dialect, InvalidInput
from shim.limits import MAX_FIELDS, MAX_FILES, MAX_TEXT_PART_BYTES, MAX_TEXTS_BYTES, MAX_URL_CHARS
from shim.reading.fields import Fields
from shim.reading.json_body import open_json
from shim.reading.uploads import Part, linked

BATCH = "images"
REFERENCES = ("image", "image[]")
URLS = ("url", "url[]")
MASKS = ("mask", "mask[]")
PICTURES = (BATCH, *REFERENCES, *MASKS)
INDEXED = re.compile(r"(images?|mask)\[[0-9]+\]")
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")  # other codecs raise errors of their own, or make surrogates

FILE_HINT = "a picture must be a file part, with a filename"
INDEX_HINT = (
    "{name} is not a field: send the picture as a file part named image (in Node: `await toFile(buffer, 'image.png')`, "
    "not a Buffer), and several pictures as parts named image[]"
)


@dataclass(frozen=True)
class Form:
    dialect: Dialect
    fields: Fields
    names: frozenset[str]  # of every part that is not empty
    files: tuple[tuple[str, UploadFile], ...]

    def uploads(self, *names: str) -> list[UploadFile]:
        return [upload for name, upload in self.files if name in names]


def dialect_of_headers(headers: Headers) -> Dialect:
    """Before the body is read; also the tie-break for a body without pictures."""
    sdk = "api-key" in headers or any(name.startswith("x-stainless-") for name in headers)
    bearer = headers.get("authorization", "").lower().startswith("bearer ")
    return "openai" if sdk or bearer or _is_json(headers) else "classic"


def dialect_of_parts(parts: Iterable[Part], by_headers: Dialect) -> Dialect:
    parts = list(parts)
    if any(name == BATCH and isinstance(value, UploadFile) for name, value in parts):
        return "classic"
    if any(name in REFERENCES + URLS for name, _ in parts):
        return "openai"
    return by_headers


class Parser(MultiPartParser):
    """Knows whether the closing boundary came; Starlette's own takes a body that was cut off for a shorter form.

    An address may be longer than other texts.
    """

    complete = False
    _text_bytes = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        self.max_part_size = MAX_URL_CHARS if self._current_part.field_name in URLS else MAX_TEXT_PART_BYTES

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None and part.field_name not in URLS:
            self._text_bytes += end - start
            if self._text_bytes > MAX_TEXTS_BYTES:
                raise MultiPartException(f"The text parts have more than {MAX_TEXTS_BYTES} bytes together")
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self.complete = True


@asynccontextmanager
async def open_form(request: Request[Any]) -> AsyncIterator[list[Part]]:
    """The body's parts that are not empty, in order; their files are closed at the end. Sets the request's dialect."""
    if _is_json(request.headers):
        async with open_json(request) as parts:
            yield parts
    else:
        async with open_multipart(request) as parts:
            yield parts


@asynccontextmanager
async def open_multipart(request: Request[Any]) -> AsyncIterator[list[Part]]:
    _require_multipart(request.headers)
    form = await _parse(request)
    with ExitStack() as opened:
        try:
            given = [part for part in form.multi_items() if not _is_empty(part)]
            request.state["dialect"] = dialect_of_parts(given, request.state["dialect"])
            yield await anyio.to_thread.run_sync(_with_addresses, given, opened)
        finally:
            await form.close()


async def _parse(request: Request[Any]) -> FormData:
    parser = Parser(
        request.headers,
        request.stream(),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_TEXT_PART_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        _refuse_indexed(name for name, _ in parser.items)
        hint = f"; {FILE_HINT}" if error.message.startswith("Part exceeded") else ""
        raise InvalidInput(f"{error.message.rstrip('.')}{hint}") from error
    if not parser.complete:
        await form.close()
        raise InvalidInput("The multipart body ends before its closing boundary")
    return form


def _with_addresses(parts: list[Part], opened: ExitStack) -> list[Part]:
    """Blocks; url parts become uploads, which `opened` closes."""
    read: list[Part] = []
    for name, value in parts:
        if name in URLS:
            if isinstance(value, UploadFile):
                raise InvalidInput("url must be a text part; send a picture as a file part named image", param="url")
            if not value.strip():
                continue
            value = linked("url", value.strip())
            opened.callback(value.file.close)
        read.append((name, value))
    return read


def read_form(parts: list[Part], dialect: Dialect) -> Form:
    _refuse_indexed(name for name, _ in parts)
    files = tuple((name, value) for name, value in parts if isinstance(value, UploadFile))
    texts = [(name, value) for name, value in parts if isinstance(value, str)]
    for name, _ in texts:
        if name in PICTURES:
            raise InvalidInput(f"{name} arrived as text; {FILE_HINT}", param=name.removesuffix("[]"))
    fields = Fields({name.removesuffix("[]"): value for name, value in texts})
    return Form(dialect, fields, frozenset(name for name, _ in parts), files)


def _content_type(headers: Headers) -> tuple[bytes, dict[bytes, bytes]]:
    return parse_options_header(headers.get("content-type", ""))


def _is_json(headers: Headers) -> bool:
    return _content_type(headers)[0] == b"application/json"


def _require_multipart(headers: Headers) -> None:
    kind, options = _content_type(headers)
    if kind != b"multipart/form-data":
        got = kind.decode("latin-1") or "no Content-Type"
        raise InvalidInput(f"The body must be multipart/form-data or application/json, got {got!r}")
    if options.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise InvalidInput(f"charset must be utf-8, got {options[b'charset'].decode('latin-1')!r}")


def _is_empty(part: Part) -> bool:
    value = part[1]
    return value == "" or (isinstance(value, UploadFile) and value.size == 0)


def _refuse_indexed(names: Iterable[str]) -> None:
    for name in names:
        if match := INDEXED.fullmatch(name):
            raise InvalidInput(INDEX_HINT.format(name=name), param=match[1])
