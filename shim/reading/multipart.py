"""A multipart body → its parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from shim.dialect import URLS
from shim.errors import InvalidInput
from shim.limits import MAX_FIELDS, MAX_FILES, MAX_TEXT_PART_BYTES, MAX_TEXTS_BYTES, MAX_URL_CHARS
from shim.reading.form import FILE_HINT, plain_name, refuse_indexed
from shim.reading.uploads import Part

MAX_PREAMBLE_BYTES = 2**14
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")  # other codecs raise errors of their own, or make surrogates


@asynccontextmanager
async def open_multipart(headers: Headers, chunks: AsyncGenerator[bytes, None]) -> AsyncIterator[list[Part]]:
    """The parts that are not empty, in order; their files are closed at the end."""
    _require_multipart(headers)
    form = await _parse(headers, chunks)
    try:
        yield [_plain(part) for part in form.multi_items() if not _is_left_out(part)]
    finally:
        await form.close()


class Parser(MultiPartParser):
    """Knows whether the closing boundary came; Starlette's own takes a body that was cut off for a shorter form.

    An address may be longer than other texts.
    """

    complete = False
    _text_bytes = 0

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition = part.content_disposition or b""
        if b"filename*=" in disposition.lower() and b"filename=" not in disposition.lower():
            # Starlette knows a file by the older parameter; what it is called matters to nobody.
            part.content_disposition = disposition + b'; filename="file"'
        super().on_headers_finished()
        if part.file is None:
            _require_utf8(part.item_headers)
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

    def close(self) -> None:
        """The file that was cut off too, which is in no form."""
        for file in self._files_to_close_on_error:
            file.close()


async def _parse(headers: Headers, chunks: AsyncGenerator[bytes, None]) -> FormData:
    parser = Parser(
        headers,
        _from_first_boundary(headers, chunks),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_TEXT_PART_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        refuse_indexed(name for name, _ in parser.items)
        hint = f"; {FILE_HINT}" if error.message.startswith("Part exceeded") else ""
        raise InvalidInput(f"{error.message.rstrip('.')}{hint}") from error
    if not parser.complete:
        parser.close()
        raise InvalidInput("The multipart body ends before its closing boundary")
    return form


async def _from_first_boundary(headers: Headers, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Without the text that may stand in front of it (RFC 2046, 5.1.1)."""
    boundary = b"--" + parse_options_header(headers.get("content-type", ""))[1].get(b"boundary", b"")
    start = b"\r\n"
    async for chunk in chunks:
        start += chunk
        place = start.find(b"\r\n" + boundary)
        if place > MAX_PREAMBLE_BYTES or (place < 0 and len(start) > MAX_PREAMBLE_BYTES):
            raise InvalidInput(f"The multipart body has no boundary in its first {MAX_PREAMBLE_BYTES} bytes")
        if place >= 0:
            yield start[place + 2 :]
            break
    else:
        yield start[2:]
    async for chunk in chunks:
        yield chunk


def _require_utf8(headers: list[tuple[bytes, bytes]]) -> None:
    """Of a part with text."""
    for name, value in headers:
        charset = parse_options_header(value)[1].get(b"charset", b"utf-8") if name == b"content-type" else b"utf-8"
        if charset.lower() not in CHARSETS:
            raise InvalidInput(f"charset of a part must be utf-8, got {charset.decode('latin-1')!r}")


def _require_multipart(headers: Headers) -> None:
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        got = kind.decode("latin-1") or "no Content-Type"
        raise InvalidInput(f"The body must be multipart/form-data or application/json, got {got!r}")
    if options.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise InvalidInput(f"charset must be utf-8, got {options[b'charset'].decode('latin-1')!r}")


def _is_left_out(part: Part) -> bool:
    """An empty text, or a file input of a browser in which none was chosen."""
    value = part[1]
    return value == "" or (isinstance(value, UploadFile) and value.size == 0 and not value.filename)


def _plain(part: Part) -> Part:
    name, value = part
    return (plain_name(name), value) if isinstance(value, UploadFile) else part
