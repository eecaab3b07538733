"""Picture files that would take seconds, or gigabytes, for a handful of pixels."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest
from PIL import Image
from qwen_edit import images
from qwen_edit.errors import BadRequest

from tests.kit.hostile_pictures import LABORIOUS, LIGHT, gradient, jpeg_of_scans, jpeg_with, saved

MAX_PIXELS = 5_000_000
SECONDS = 2.0  # of one decoding, on a busy machine


@pytest.mark.parametrize("kind", LABORIOUS)
def test_what_takes_more_work_than_its_pixels_is_refused(kind: str) -> None:
    make, size = LABORIOUS[kind]
    data = make(size)
    started = time.monotonic()
    with pytest.raises(BadRequest, match=r"^image: \d+ bytes, not a picture that is decoded here: it"):
        images.decode(data, "image", MAX_PIXELS)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("kind", LIGHT)
def test_what_unpacks_to_much_is_decoded_or_refused_in_bounded_time_and_memory(kind: str) -> None:
    make, size = LIGHT[kind]
    data = make(size)
    tracemalloc.start()
    started = time.monotonic()
    with contextlib.suppress(BadRequest):
        images.decode(data, "image", MAX_PIXELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - started < 2 * SECONDS  # traced
    assert peak < 2**27 + 4 * len(data)


def test_a_progressive_photograph_is_decoded() -> None:
    photo = saved(gradient(512).convert("RGB"), "JPEG", progressive=True, icc_profile=bytes(2**20))
    assert images.decode(photo, "image", 512 * 512).size == (512, 512)
    assert images.decode(jpeg_of_scans(20), "image", MAX_PIXELS).size == (2048, 2048)


def test_a_tiled_or_run_length_encoded_file_is_decoded() -> None:
    tiled = saved(gradient(600), "TIFF", compression="jpeg", tiffinfo={322: 64, 323: 64})
    assert images.decode(tiled, "image", MAX_PIXELS).size == (600, 600)
    make, _ = LABORIOUS["bmp of single pixels"]
    assert images.decode(make(100), "image", MAX_PIXELS).size == (100, 100)


@pytest.mark.parametrize("block", [b"", b"\0", b"Exif", b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\xff" * 60, b"junk" * 9])
def test_a_damaged_exif_block_says_nothing_of_the_orientation(block: bytes) -> None:
    damaged = jpeg_with(b"\xff\xe1" + (len(block) + 8).to_bytes(2, "big") + b"Exif\0\0" + block)
    assert images.decode(damaged, "image", MAX_PIXELS).size == (64, 64)


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
    found = images.decode(saved(stored, kind, exif=exif), "image", MAX_PIXELS)
    assert found.size == (48, 32)
    red, green, _ = found.getpixel((4, 4))  # type: ignore[misc]
    assert red > 200 > 100 > green
