"""Strategies for picture files: photographs in every format and mode, damaged ones, and bombs."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from tests.kit.hostile_pictures import LABORIOUS, LIGHT, MULTIPLYING, SCANNING, animation, saved

DATA = Path(__file__).parents[1] / "data"
SIDE = 96  # pixels of the sound ones
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF")
FRONTS = (
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"%PDF-1.7\n",
    b"GIF89a",
    b"BM",
    b"RIFF\xff\xff\xff\xffWEBPVP8X",
)
# Every bomb costs the server some tenths of a second.
BOMBS_ARE_ONE_IN = 40


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    opened = [Image.open(io.BytesIO(path.read_bytes())) for path in sorted(DATA.glob("*.jpg"))]
    return tuple(picture.convert("RGB").resize((SIDE, SIDE)) for picture in opened)


@functools.cache
def sound() -> tuple[bytes, ...]:
    return tuple(saved(photo, kind) for photo in photographs() for kind in FORMATS)


@functools.cache
def unusual() -> tuple[bytes, ...]:
    """What a decoder may stumble over, and should not; or what is too long."""
    photo = photographs()[0]
    clear = photo.convert("RGBA")
    clear.putalpha(photo.convert("L"))
    palette = photo.convert("P")
    deep = photo.convert("I").point(lambda value: value * 257)
    return (
        saved(photo.convert("CMYK"), "JPEG"),
        saved(photo.convert("CMYK"), "TIFF"),
        saved(photo, "JPEG", progressive=True),
        saved(deep.convert("I;16"), "PNG"),
        saved(deep, "TIFF"),
        saved(photo.convert("F"), "TIFF", compression="tiff_lzw"),
        saved(palette, "PNG"),
        saved(palette, "PNG", transparency=bytes(range(256))),
        saved(palette, "GIF", transparency=0),
        saved(photo.convert("1"), "PNG"),
        saved(photo.convert("LA"), "PNG"),
        saved(clear, "WEBP", lossless=True),
        saved(clear, "PNG", icc_profile=bytes(10_000)),
        saved(photo, "JPEG", icc_profile=b"\xff" * 100_000),
        *(animation(20, kind) for kind in ("GIF", "PNG", "WEBP")),
        *(saved(Image.new("L", size), kind) for size in ((30_000, 1), (1, 30_000), (1, 1)) for kind in ("PNG", "TIFF")),
        *(_oriented(photo, kind, orientation) for kind in ORIENTED for orientation in (*range(10), 65_535)),
    )


def _oriented(photo: Image.Image, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo, kind, exif=exif)


@functools.cache
def bombs() -> tuple[bytes, ...]:
    return tuple(make(size) for make, size in (LABORIOUS | MULTIPLYING | SCANNING | LIGHT).values())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data: bytes = draw(st.sampled_from((*sound(), *unusual())))
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from(DAMAGES))(draw, data)
    return data


def _cut_off(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, max(0, len(data) - 1)))]


def _changed(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for at, byte in draw(st.lists(st.tuples(st.integers(0, max(0, len(data) - 1)), st.integers(0, 255)), max_size=20)):
        if changed:
            changed[at] = byte
    return bytes(changed)


def _changed_in_front(draw: st.DrawFn, data: bytes) -> bytes:
    return _changed(draw, data[:64]) + data[64:]


def _doubled(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return data[:end] + data[start:end] * draw(st.integers(1, 5)) + data[end:]


def _spliced(draw: st.DrawFn, data: bytes) -> bytes:
    other = draw(st.sampled_from(sound()))
    return data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]


def _filled(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return data[:start] + draw(st.sampled_from((b"\0", b"\xff", b"\x7f"))) * (end - start) + data[end:]


def _behind_something_else(draw: st.DrawFn, data: bytes) -> bytes:
    return draw(st.sampled_from(FRONTS)) + data


DAMAGES = (_cut_off, _changed, _changed_in_front, _doubled, _spliced, _filled, _behind_something_else)


def pictures() -> st.SearchStrategy[bytes]:
    """Any of them, mostly damaged."""
    usual = st.one_of(damaged(), damaged(), damaged(), st.sampled_from(unusual()), st.binary(max_size=200))
    rare = st.sampled_from(bombs())
    return st.integers(1, BOMBS_ARE_ONE_IN).flatmap(lambda number: rare if number == 1 else usual)
