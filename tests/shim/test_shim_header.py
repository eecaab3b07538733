"""Headers of pictures that go on and on, and pictures whose headers are fine."""

from __future__ import annotations

import contextlib
import io
import time

import pytest
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.images import Picture
from tests.kit.hostile_pictures import (
    LIGHT,
    Make,
    jpeg_of_empty_segments,
    jpeg_of_exif_segments,
    jpeg_segment,
    jpeg_with,
    png_of_empty_chunks,
    tiff_of_strips,
)

MAX_PIXELS = 50_000_000
SECONDS = 2.0  # of one check, on a busy machine


def check(data: bytes) -> None:
    Picture("image", "image", UploadFile(io.BytesIO(data), size=len(data))).check(MAX_PIXELS)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (png_of_empty_chunks, 100_000),
        (jpeg_of_empty_segments, 1_000_000),
        (jpeg_of_exif_segments, 400),
        (tiff_of_strips, 5_000_000),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_header_that_goes_on_and_on_is_refused(make: Make, size: int) -> None:
    data = make(size)
    started = time.monotonic()
    with pytest.raises(InvalidInput, match="image has a header that goes on and on"):
        check(data)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("kind", LIGHT)
def test_a_header_that_unpacks_to_much_is_read_in_no_time(kind: str) -> None:
    make, size = LIGHT[kind]
    data = make(size)
    started = time.monotonic()
    with contextlib.suppress(InvalidInput):
        check(data)
    assert time.monotonic() - started < SECONDS


def test_a_large_profile_and_a_large_webp_are_no_trouble() -> None:
    check(jpeg_with(*[jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))] * 100))
    make, _ = LIGHT["webp of many frames"]
    check(make(3) + bytes(2**25))
