"""The two kinds of caller, told apart by a request's headers, then by the parts of its body."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.types import Scope

Dialect = Literal["classic", "openai"]

Purpose = Literal["edit", "generation"]
OPENAI_PATH = re.compile(r"/v1/(?!images/edits$)|/openai/|/images/generations$")  # which no classic client asks for
BATCH = "images"
REFERENCES = ("image", "image[]")
URLS = ("url", "url[]")


def dialect_of(scope: Scope) -> Dialect:
    """What the parts have said; before they were read, what the headers say, or the path."""
    said: Dialect | None = scope["state"].get("dialect")
    return said or ("openai" if OPENAI_PATH.match(scope["path"]) else dialect_of_headers(Headers(scope=scope)))


def hear_parts(scope: Scope, parts: Iterable[tuple[str, str | UploadFile]]) -> Dialect:
    """Once a request: all that is answered, logged and counted from now on is in the dialect of its parts."""
    dialect: Dialect = dialect_of_parts(parts, dialect_of(scope))
    scope["state"]["dialect"] = dialect
    return dialect


def dialect_of_headers(headers: Headers) -> Dialect:
    """Before the body is read; also the tie-break for a body without pictures."""
    sdk = "api-key" in headers or any(name.startswith("x-stainless-") for name in headers)
    bearer = headers.get("authorization", "").lower().startswith("bearer ")
    return "openai" if sdk or bearer or is_json(headers) else "classic"


def dialect_of_parts(parts: Iterable[tuple[str, str | UploadFile]], by_headers: Dialect) -> Dialect:
    parts = list(parts)
    if any(name == BATCH and isinstance(value, UploadFile) for name, value in parts):
        return "classic"
    if any(name in REFERENCES + URLS for name, _ in parts):
        return "openai"
    return by_headers


def is_json(headers: Headers) -> bool:
    return parse_options_header(headers.get("content-type", ""))[0] == b"application/json"
