"""An API key, in any of the three places where clients put it."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers

from shim.errors import Unauthorized
from shim.guards.keys import NamedKey


def authorize(headers: Headers, keys: Sequence[NamedKey]) -> str:
    """The name of the key that a header carries; empty where there are none, and everybody may. Or Unauthorized."""
    if not keys:
        return ""
    given = list(_given(headers))
    # All are compared, so that the time tells nothing of how many or which.
    matching = [
        name
        for name, key in keys
        if any([hmac.compare_digest(each, encoded) for each in given for encoded in _encodings(key)])
    ]
    if not matching:
        raise Unauthorized("Invalid API key")
    return matching[0]


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
