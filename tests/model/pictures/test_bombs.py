"""Picture files that would take seconds, or gigabytes, for a handful of pixels."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest
from PIL import Image
from qwen_edit.errors import BadRequest

from tests.kit.decoding import decode
from tests.kit.hostile_pictures import (
    LABORIOUS,
    LIGHT,
    MULTIPLYING,
    RGB,
    SCANNING,
    STRIPS,
    gradient,
    jpeg_of_arithmetic_coding,
    jpeg_of_scans,
    jpeg_segment,
    jpeg_with,
    saved,
    tiff_of_jpeg_planes,
    tiff_of_jpeg_tiles,
    tiff_of_pieces,
)

MAX_PIXELS = 5_000_000
CPU_SECONDS = 2.0  # of one decoding, at most
NO_TIME = 0.1  # CPU seconds of what is refused before it is decoded


@pytest.mark.parametrize("kind", LABORIOUS)
def test_what_takes_more_work_than_its_pixels_is_refused(kind: str) -> None:
    make, size = LABORIOUS[kind]
    data = make(size)
    started = time.thread_time()
    with pytest.raises(BadRequest, match=r"^image: \d+ bytes, not a picture that is decoded here: it"):
        decode(data, MAX_PIXELS)
    assert time.thread_time() - started < CPU_SECONDS


@pytest.mark.parametrize("kind", MULTIPLYING | SCANNING)
def test_a_tiff_whose_pieces_multiply_is_refused_before_it_is_decoded(kind: str) -> None:
    make, size = (MULTIPLYING | SCANNING)[kind]
    data = make(size)
    max_pixels = 50_000_000 if kind == "tiff of 187 gigabytes" else MAX_PIXELS
    started = time.thread_time()
    with pytest.raises(BadRequest, match=r"^image: \d+ bytes, not a picture that is decoded here: it"):
        decode(data, max_pixels)
    assert time.thread_time() - started < NO_TIME


@pytest.mark.parametrize("kind", LIGHT)
def test_what_unpacks_to_much_is_decoded_or_refused_in_bounded_time_and_memory(kind: str) -> None:
    make, size = LIGHT[kind]
    data = make(size)
    tracemalloc.start()
    started = time.thread_time()
    with contextlib.suppress(BadRequest):
        decode(data, MAX_PIXELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.thread_time() - started < 2 * CPU_SECONDS  # traced
    assert peak < 2**27 + 4 * len(data)


@pytest.mark.parametrize("start_of_frame", [0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
def test_a_jpeg_with_arithmetic_coding_is_refused_before_it_is_decoded(start_of_frame: int) -> None:
    plain = jpeg_of_arithmetic_coding(start_of_frame)
    strip = tiff_of_pieces((64, 64), RGB | {259: 7, 278: 64}, STRIPS, 1, plain)
    for data in (plain, strip):
        with pytest.raises(BadRequest, match="it is a JPEG with arithmetic coding: Huffman coding is allowed"):
            decode(data, MAX_PIXELS)


def test_a_progressive_photograph_is_decoded() -> None:
    photo = saved(gradient(512).convert("RGB"), "JPEG", progressive=True, icc_profile=bytes(2**20))
    assert decode(photo, 512 * 512).size == (512, 512)
    assert decode(jpeg_of_scans(20), MAX_PIXELS).size == (2048, 2048)


def test_a_jpeg_whose_profile_is_cut_into_hundreds_of_pieces_is_decoded() -> None:
    pieces = [jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number % 256, 255, *range(26)])) for number in range(4_000)]
    assert decode(jpeg_with(*pieces), MAX_PIXELS).size == (64, 64)


def test_a_tiled_or_run_length_encoded_file_is_decoded() -> None:
    assert decode(tiff_of_jpeg_tiles(3), MAX_PIXELS).size == (2048, 2048)
    assert decode(tiff_of_jpeg_planes(3), MAX_PIXELS).size == (1024, 1024)
    make, _ = LABORIOUS["bmp of single pixels"]
    assert decode(make(100), MAX_PIXELS).size == (100, 100)


@pytest.mark.parametrize("block", [b"", b"\0", b"Exif", b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\xff" * 60, b"junk" * 9])
def test_a_damaged_exif_block_says_nothing_of_the_orientation(block: bytes) -> None:
    damaged = jpeg_with(b"\xff\xe1" + (len(block) + 8).to_bytes(2, "big") + b"Exif\0\0" + block)
    assert decode(damaged, MAX_PIXELS).size == (64, 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation: int, kind: str) -> None:
    """The corner that is red in the upright picture is found there again."""
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes each
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(saved(stored, kind, exif=exif), MAX_PIXELS)
    assert found.size == (48, 32)
    red, green, _ = found.getpixel((4, 4))  # type: ignore[misc]
    assert red > 200 > 100 > green
