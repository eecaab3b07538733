"""Headers of pictures that go on and on, and pictures whose headers are fine."""

from __future__ import annotations

import contextlib
import io
import time

import pytest
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.reading.pictures import Picture
from tests.kit.hostile_pictures import (
    LIGHT,
    MULTIPLYING,
    SCANNING,
    Make,
    jpeg_of_empty_segments,
    jpeg_of_exif_segments,
    jpeg_segment,
    jpeg_with,
    png_of_empty_chunks,
    tiff_of_strips,
)

MAX_PIXELS = 50_000_000
CPU_SECONDS = 1.0  # of one check, at most
NO_TIME = 0.1


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
    started = time.thread_time()
    with pytest.raises(InvalidInput, match="image has a header that is too long"):
        check(data)
    assert time.thread_time() - started < CPU_SECONDS


@pytest.mark.parametrize("kind", LIGHT)
def test_a_header_that_unpacks_to_much_is_read_in_no_time(kind: str) -> None:
    make, size = LIGHT[kind]
    data = make(size)
    started = time.thread_time()
    with contextlib.suppress(InvalidInput):
        check(data)
    assert time.thread_time() - started < CPU_SECONDS


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("kind", MULTIPLYING)
def test_a_tiff_whose_pieces_multiply_is_refused_by_the_header(kind: str) -> None:
    make, size = MULTIPLYING[kind]
    data = make(size)
    started = time.thread_time()
    with pytest.raises(InvalidInput, match=r"^image has (tiles|both tiles|a TIFF directory)") as caught:
        check(data)
    assert time.thread_time() - started < NO_TIME
    assert caught.value.param == "image"


@pytest.mark.parametrize("kind", SCANNING)
def test_the_scans_within_a_tiff_are_left_to_the_model(kind: str) -> None:
    make, size = SCANNING[kind]
    check(make(size))


def test_a_large_profile_and_a_large_webp_are_no_trouble() -> None:
    check(jpeg_with(*[jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))] * 100))
    make, _ = LIGHT["webp of many frames"]
    check(make(3) + bytes(2**25))
