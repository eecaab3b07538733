"""Headers of pictures that go on and on, and pictures whose headers are fine."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
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
    jpeg_of_fractions,
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
        (jpeg_of_empty_segments, 1_000_000),
        (jpeg_of_exif_segments, 400),
        (jpeg_of_fractions, 1_000_000),
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


def test_of_a_png_no_more_is_read_than_its_size() -> None:
    data = png_of_empty_chunks(100_000)
    upload = io.BytesIO(data)
    Picture("image", "image", UploadFile(upload, size=len(data))).check(MAX_PIXELS)
    assert upload.tell() <= 64
    with pytest.raises(InvalidInput, match="64x64"):
        Picture("image", "image", UploadFile(upload, size=len(data))).check(64)


@pytest.mark.parametrize(
    ("pixels", "photometric"),
    [(np.zeros((32, 32, 3), np.float32), "rgb"), (np.zeros((32, 32), np.float16), "minisblack")],
    ids=["RGB of floats", "half floats"],
)
def test_a_tiff_that_is_not_decoded_is_told_from_what_is_none(
    pixels: npt.NDArray[np.generic], photometric: str
) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric=photometric)
    with pytest.raises(InvalidInput, match="image is a TIFF of a kind that is not decoded here: 8 bits of grey"):
        check(file.getvalue())


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
def test_a_phones_picture_that_is_not_decoded_is_named_with_what_to_do(brand: bytes) -> None:
    with pytest.raises(InvalidInput, match="image is a HEIC picture, which is not decoded here: send it as JPEG"):
        check(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(1000))


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
