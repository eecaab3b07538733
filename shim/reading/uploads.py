"""Pictures that come as text: a data: URL holds its bytes, an http(s) URL says where they are."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast
from urllib.parse import unquote_to_bytes

from starlette.datastructures import UploadFile

from shim.dialect import URLS
from shim.errors import InvalidInput
from shim.limits import MAX_URL_CHARS, SPOOL_BYTES

SLICE_BYTES = 2**18  # decoded at a time, as a decoder holds up all threads
HEAD_CHARS = 2**10  # of a data: URL before its comma
STANDARD = bytes.maketrans(b"-_", b"+/")  # of the alphabet for URLs
WHITESPACE = b" \t\r\n"  # `base64` on a command line wraps its lines

Part = tuple[str, str | UploadFile]


class Linked(UploadFile):
    """An upload under the client's own name for it; its file is empty while `address` is set."""

    def __init__(self, field: str, address: str | None = None) -> None:
        super().__init__(spooled(), size=0)
        self.field = field
        self.address = address

    def refusal(self, problem: str) -> InvalidInput:
        return InvalidInput(f"{self.field}: {problem}", param=self.field)


def spooled() -> BinaryIO:
    return cast(BinaryIO, SpooledTemporaryFile(max_size=SPOOL_BYTES))


def linked(field: str, url: str) -> Linked:
    """Blocks: decodes a data: URL."""
    scheme = url[:8].partition(":")[0].lower()
    upload = Linked(field, url if scheme in ("http", "https") else None)
    try:
        if len(url) > MAX_URL_CHARS:
            raise upload.refusal(f"an address has at most {MAX_URL_CHARS} characters, got {len(url)}")
        if scheme == "data":
            _decode(url, upload)
        elif not upload.address:
            raise upload.refusal("must be a data: URL with base64, or an http(s) URL of a host that this server allows")
    except InvalidInput:
        upload.file.close()
        raise
    return upload


def link_addresses(parts: list[Part], opened: ExitStack) -> list[Part]:
    """Blocks; url parts of a form become uploads, which `opened` closes."""
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


def _decode(url: str, upload: Linked) -> None:
    head, comma, _ = url[:HEAD_CHARS].partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise upload.refusal("a data: URL must be base64, as in data:image/png;base64,iVBORw0…")
    start = len(head) + len(comma)
    try:
        for data in _decoded(unquote_to_bytes(url[start:]) if "%" in url else url[start:].encode("ascii")):
            upload.file.write(data)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise upload.refusal("the data: URL's base64 is damaged") from error
    if not upload.file.tell():
        raise upload.refusal("the data: URL is empty")


def _decoded(encoded: bytes) -> Iterator[bytes]:
    rest = b""  # of a group of four
    for start in range(0, len(encoded), SLICE_BYTES):
        text = rest + encoded[start : start + SLICE_BYTES].translate(STANDARD, WHITESPACE)
        whole = len(text) // 4 * 4
        yield binascii.a2b_base64(text[:whole], strict_mode=True)
        rest = text[whole:]
    if rest:  # many encoders leave the padding out
        yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True)
