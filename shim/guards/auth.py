"""The one API key, in any of the three places where clients put it."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator

from starlette.datastructures import Headers

from shim.errors import Unauthorized


def authorize(headers: Headers, api_key: str) -> None:
    """Raises Unauthorized unless a header carries `api_key`; an empty key turns authentication off."""
    if not api_key:
        return
    accepted = _encodings(api_key)
    if not any([hmac.compare_digest(given, key) for given in _given(headers) for key in accepted]):
        raise Unauthorized("Invalid API key")


def _encodings(api_key: str) -> list[bytes]:
    """curl sends a non-ASCII key in UTF-8, Python's requests in Latin-1."""
    utf8 = api_key.encode()
    try:
        return [utf8, api_key.encode("latin-1")]
    except UnicodeEncodeError:
        return [utf8]


def _given(headers: Headers) -> Iterator[bytes]:
    for value in headers.getlist("api-key"):
        yield value.encode("latin-1").strip()
    for value in headers.getlist("authorization"):
        scheme, _, credentials = value.encode("latin-1").partition(b" ")
        if scheme.lower() == b"bearer":
            yield credentials.strip()
        elif scheme.lower() == b"basic":
            yield from _basic_password(credentials.strip())


def _basic_password(credentials: bytes) -> Iterator[bytes]:
    try:
        decoded = base64.b64decode(credentials, validate=True)
    except binascii.Error:
        return
    _user, colon, password = decoded.partition(b":")
    if colon:
        yield password
