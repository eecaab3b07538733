from __future__ import annotations

import base64

import pytest
from starlette.datastructures import Headers

from shim.errors import Unauthorized
from shim.guards.auth import authorize

KEY = "secret:key"


def headers(**values: str | bytes) -> Headers:
    raw = [
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in values.items()
    ]
    return Headers(raw=raw)


def basic(credentials: str | bytes) -> bytes:
    return b"Basic " + base64.b64encode(credentials if isinstance(credentials, bytes) else credentials.encode())


@pytest.mark.parametrize("given", [headers(), headers(authorization="nonsense"), headers(api_key="x")])
def test_without_a_key_everyone_may(given: Headers) -> None:
    authorize(given, [])


@pytest.mark.parametrize(
    "given",
    [
        headers(authorization=basic("anyone:secret:key")),
        headers(authorization=basic(":secret:key")),
        headers(authorization=basic("a:secret:key").replace(b"Basic", b"bAsIc")),
        headers(authorization="Bearer secret:key"),
        headers(authorization="bearer   secret:key "),
        headers(api_key=KEY),
        headers(authorization="Bearer wrong", api_key=KEY),
    ],
    ids=["basic", "empty user", "scheme in any case", "bearer", "bearer with spaces", "api-key", "one of two"],
)
def test_the_key_is_accepted_in_any_of_three_places(given: Headers) -> None:
    authorize(given, [("one", KEY)])


@pytest.mark.parametrize(
    "given",
    [
        headers(),
        headers(authorization=""),
        headers(authorization="Basic"),
        headers(authorization="Basic !!!"),
        headers(authorization="Basic YQ"),
        headers(authorization=basic("secret")),
        headers(authorization=basic("secret:key:wrong")),
        headers(authorization=basic(b"\xff:\xfe")),
        headers(authorization="Bearer"),
        headers(authorization="Bearer secret:ke"),
        headers(authorization="Digest secret:key"),
        headers(authorization=KEY),
        headers(authorization=b"Bearer \xff\xfe"),
        headers(api_key=""),
    ],
    ids=lambda given: str(given.get("authorization", given)),
)
def test_everything_else_is_unauthorized(given: Headers) -> None:
    with pytest.raises(Unauthorized):
        authorize(given, [("one", KEY)])


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_non_ascii_key_is_accepted_in_the_encodings_that_clients_use(encoding: str) -> None:
    password = "schlüssel".encode(encoding)
    authorize(headers(authorization=basic(b"user:" + password)), [("one", "schlüssel")])
    authorize(headers(authorization=b"Bearer " + password), [("one", "schlüssel")])


def test_a_key_outside_latin_1_is_compared_in_utf_8() -> None:
    authorize(headers(api_key="密钥".encode()), [("one", "密钥")])
    with pytest.raises(Unauthorized):
        authorize(headers(api_key=b"??"), [("one", "密钥")])
