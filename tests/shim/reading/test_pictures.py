from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.datastructures import UploadFile

from shim.errors import InvalidInput
from shim.reading.pictures import Picture

Draw = Callable[..., bytes]
MAX_PIXELS = 50_000_000


def picture(data: bytes, label: str = "image") -> Picture:
    return Picture("image", label, UploadFile(io.BytesIO(data), size=len(data), filename="a.txt"))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_bytes_tell_the_format_whatever_the_name(draw: Draw, file_format: str) -> None:
    picture(draw(file_format=file_format)).check(MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0", b"\x89PNG\r\n\x1a\n", b"b'\\x89PNG'"],
    ids=["text", "svg", "postscript", "cut off", "bytes through extra_body"],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^image must be a PNG, JPEG") as caught:
        picture(data).check(MAX_PIXELS)
    assert caught.value.param == "image"


@pytest.mark.parametrize(("width", "height"), [(7072, 7072), (65_500, 65_500)], ids=["a little", "a bomb"])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(InvalidInput, match=f"at most 50000000 pixels, got {width}x{height}"):
        picture(png_header(width, height)).check(MAX_PIXELS)


def test_the_aspect_ratio_is_at_most_8(draw: Draw) -> None:
    picture(draw(80, 10)).check(MAX_PIXELS)
    picture(draw(10, 80)).check(MAX_PIXELS)
    with pytest.raises(InvalidInput, match="from 1:8 to 8:1, got 81x10"):
        picture(draw(81, 10)).check(MAX_PIXELS)


def test_the_refusal_names_the_file() -> None:
    with pytest.raises(InvalidInput, match=r"^images \(file 2\) must be"):
        picture(b"x", "images (file 2)").check(MAX_PIXELS)


def test_any_part_may_be_read_by_several_threads(png: bytes) -> None:
    shared = picture(png)
    shared.check(MAX_PIXELS)
    assert shared.length() == len(png)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: shared.read(start % len(png), 10), range(1000)))
    assert parts == [png[start % len(png) :][:10] for start in range(1000)]
