from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidInput
from shim.limits import MAX_URL_CHARS
from shim.reading.uploads import SLICE_BYTES, linked


def read(url: str) -> bytes:
    upload = linked("url", url)
    with upload.file as file:
        assert upload.address is None
        file.seek(0)
        return file.read()


@given(st.binary(min_size=1))
def test_a_data_url_is_its_bytes(data: bytes) -> None:
    assert read(f"data:image/png;base64,{base64.b64encode(data).decode()}") == data


def test_a_long_data_url_is_decoded_in_slices() -> None:
    data = os.urandom(3 * SLICE_BYTES + 1)
    assert read(f"data:;base64,{base64.b64encode(data).decode()}") == data
    assert read(f"data:;base64,{base64.encodebytes(data).decode()}") == data


@pytest.mark.parametrize(
    "url",
    [
        "data:;base64,aGVsbG8=",
        "DATA:text/html;charset=x;BASE64,aGVsbG8=",
        "data:image/png;base64,aGVs\r\nbG8=\n",
        "data:image/png;base64,aGVsbG8%3D",
    ],
    ids=["no type", "any type, upper case", "wrapped lines", "percent-encoded"],
)
def test_spellings_of_a_data_url(url: str) -> None:
    assert read(url) == b"hello"


@pytest.mark.parametrize("address", ["http://a.example/b.png", "HTTPS://a.example"])
def test_an_http_address_is_kept_for_later(address: str) -> None:
    upload = linked("url", address)
    assert upload.address == address
    upload.file.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png,hello", "must be base64"),
        ("data:image/png;base64", "must be base64"),
        ("data:image/svg+xml;utf8,<svg/>", "must be base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,aGVsbG8aa", "damaged"),
        ("data:image/png;base64,aGVs!G8=", "damaged"),
        ("data:image/png;base64,aGVsbG8=aGVs", "damaged"),
        ("data:image/png;base64,日本", "damaged"),
        ("ftp://a.example/b.png", "must be a data: URL"),
        ("file:///etc/passwd", "must be a data: URL"),
        ("aGVsbG8=", "must be a data: URL"),
        ("", "must be a data: URL"),
        ("https:" + "a" * MAX_URL_CHARS, "at most 20971520 characters, got 20971526"),
    ],
    ids=lambda value: value[:30] or "empty",
)
def test_other_addresses_are_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        linked("images", url)
    assert caught.value.param == "images"
    assert len(caught.value.message) < 200
