"""Picture files made to cost far more than their pixels: what is counted before and while they are decoded.

Pillow itself bounds what the texts, profiles and EXIF blocks of a file unpack to, and `images.check_size` its pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

# Pillow reads a file in pieces as small as its author made them, at about a microsecond each.
FREE_READS = 2**17
BYTES_PER_READ = 64  # beyond the free ones
MAX_JPEG_SEGMENTS = 256  # of up to 64 KiB; a large profile or a depth map takes a hundred
MAX_SCANS = 32  # of the largest picture, of smaller ones more: each scan of a progressive JPEG goes over all pixels

TIFF_TILE_WIDTH, TIFF_TILE_LENGTH, TIFF_ROWS_PER_STRIP = 322, 323, 278
JPEG_IN_TIFF = ("jpeg", "tiff_jpeg")
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # none of those that stand within a scan


class TooLaborious(Exception):
    """The file takes more work than a picture of its size does; the message says what of."""


class CountedReads(io.BytesIO):
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = FREE_READS + len(data) // BYTES_PER_READ

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise TooLaborious("it is cut into too many small pieces")
        return super().read(size)


def check_segments(data: bytes) -> None:
    """Before Pillow joins them: a JPEG's segments."""
    if data.startswith(b"\xff\xd8"):
        _scans_of_jpeg(data)


def check_work(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    """Before the pixels are decoded: how many are gone over, counted with each scan."""
    if picture.format in ("JPEG", "MPO"):
        pixels, scans = picture.width * picture.height, _scans_of_jpeg(data)
    elif picture.format == "TIFF":
        pixels = _piece(picture)
        scans = data.count(b"\xff\xda") if picture.info.get("compression") in JPEG_IN_TIFF else 1
    else:
        return
    if pixels > max_pixels:
        raise TooLaborious(f"its tiles have {pixels} pixels, at most {max_pixels} are allowed")
    if pixels * scans > MAX_SCANS * max_pixels:
        raise TooLaborious(f"it has {scans} scans, far more than a picture of its size needs")


def _scans_of_jpeg(data: bytes) -> int:
    markers = list(_markers(data))
    if len(markers) > MAX_JPEG_SEGMENTS + markers.count(START_OF_SCAN):
        raise TooLaborious(f"it has more than {MAX_JPEG_SEGMENTS} segments")
    return markers.count(START_OF_SCAN)


def _markers(data: bytes) -> Iterator[int]:
    """Of the segments after the first, up to the end of the image or until there are far too many."""
    position = 2
    for _ in range(2**16):
        match = JPEG_MARKER.search(data, position)
        if not match or match[1][0] == END_OF_IMAGE:
            return
        yield match[1][0]
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])


def _piece(picture: Any) -> int:
    """Pixels of a TIFF's tile or strip; tiles may be larger than the picture."""
    tags = picture.tag_v2
    if TIFF_TILE_WIDTH in tags and TIFF_TILE_LENGTH in tags:
        return int(tags[TIFF_TILE_WIDTH]) * int(tags[TIFF_TILE_LENGTH])
    rows: int = min(tags.get(TIFF_ROWS_PER_STRIP, picture.height), picture.height)
    return rows * int(picture.width)
