"""Picture files made to cost far more than their pixels: what is counted before and while they are decoded.

Pillow itself bounds what the texts, profiles and EXIF blocks of a file unpack to, and `images.check_size` its pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice, zip_longest
from operator import mul

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from qwen_edit.pictures.pixel_work import JPEGS, STRIP_OFFSETS, excess, pieces, unreadable

# Pillow reads a file in pieces as small as its author made them, at about a microsecond each.
FREE_READS = 2**17
BYTES_PER_READ = 64  # beyond the free ones
MAX_JPEG_SEGMENTS = 4096  # some writers cut a profile into hundreds
MAX_SEGMENT_BYTES = 2**24  # a large profile or a depth map takes half of that
MAX_EXIF_SEGMENTS = 256  # each is copied with every further one
MAX_MARKERS = 2**16
MAX_SCANS = 32  # of the largest picture, of smaller ones more: each scan of a progressive JPEG goes over all pixels

END_OF_IMAGE, START_OF_SCAN, EXIF_OR_XMP = 0xD9, 0xDA, 0xE1
STARTS_OF_FRAME = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
ARITHMETIC_CODED = "it is a JPEG with arithmetic coding: Huffman coding is allowed"
ARITHMETIC = re.compile(rb"\xff[\xc9-\xcb\xcd-\xcf]")  # starts of frame that few readers know, and slow ones
MAX_JPEG_HEIGHT = 2**16 - 1
SCAN = bytes([0xFF, START_OF_SCAN])
JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")  # none of those that no length follows


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


def check_header(data: bytes) -> None:
    """Before Pillow reads them: a JPEG's segments, which it joins, and a TIFF's tags."""
    if data.startswith(b"\xff\xd8"):
        scans_of_jpeg(data)
    elif problem := unreadable(io.BytesIO(data)):
        raise TooLaborious(f"it {problem}")


def check_work(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    """Before the pixels are decoded: how many are gone over, counted with each scan."""
    if isinstance(picture, TiffImageFile):
        if problem := excess(picture.tag_v2, io.BytesIO(data)):
            raise TooLaborious(f"it {problem}")
        scanned = _scanned_in_tiff(picture.tag_v2, data) if picture.info["compression"] == "jpeg" else 0
    elif picture.format in JPEGS:
        scanned = picture.width * picture.height * scans_of_jpeg(data)
    else:
        return
    if scanned > MAX_SCANS * max_pixels:
        raise TooLaborious(f"its JPEG scans go over {scanned} pixels, at most {MAX_SCANS * max_pixels} are allowed")


def scans_of_jpeg(data: bytes) -> int:
    segments = list(_markers(data, 0))
    markers = [marker for marker, _ in segments]
    if any(ARITHMETIC.match(bytes([0xFF, marker])) for marker in markers):
        raise TooLaborious(ARITHMETIC_CODED)
    if len(markers) > MAX_JPEG_SEGMENTS + markers.count(START_OF_SCAN):
        raise TooLaborious(f"it has more than {MAX_JPEG_SEGMENTS} segments")
    if markers.count(EXIF_OR_XMP) > MAX_EXIF_SEGMENTS:
        raise TooLaborious(f"it has more than {MAX_EXIF_SEGMENTS} segments of EXIF or XMP")
    if sum(_length(data, start) for _, start in segments) > MAX_SEGMENT_BYTES:
        raise TooLaborious(f"its segments have more than {MAX_SEGMENT_BYTES} bytes")
    return markers.count(START_OF_SCAN)


def _markers(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """And where the segment behind it starts, after the first, up to the end of the image."""
    position = start + 2
    for _ in range(MAX_MARKERS):
        match = JPEG_MARKER.search(data, position)
        if not match or match[1][0] == END_OF_IMAGE:
            return
        yield match[1][0], match.end()
        position = match.end() + _length(data, match.end())
    raise TooLaborious(f"it has more than {MAX_MARKERS} segments and scans")


def _length(data: bytes, start: int) -> int:
    """Of the segment that starts there, behind its marker."""
    return int.from_bytes(data[start : start + 2])


def _scanned_in_tiff(tags: ImageFileDirectory_v2, data: bytes) -> int:
    """Pixels of all its JPEG pieces, of each as often as it has scans."""
    parts = pieces(tags)
    offsets = tags.get(parts.offsets, ())[: parts.needed]
    counts = tags.get(parts.byte_counts, ())
    pixels = [parts.width * parts.length] * len(offsets)
    if parts.offsets == STRIP_OFFSETS:
        for last in range(parts.down - 1, len(offsets), parts.down):
            pixels[last] = max(pixels[last], parts.width * _jpeg_height(data, offsets[last]))
    if any(ARITHMETIC.search(data, offset, offset + count) for offset, count in zip(offsets, counts, strict=False)):
        raise TooLaborious(ARITHMETIC_CODED)
    whole = data.count(SCAN)
    scans = [
        data.count(SCAN, offset, offset + count) if count else whole
        for offset, count in zip_longest(offsets, counts, fillvalue=0)
    ]
    return sum(map(mul, pixels, scans))


def _jpeg_height(data: bytes, start: int) -> int:
    """Of the last strip, which libtiff lets be higher than what is left of the picture."""
    for marker, end in islice(_markers(data, start), MAX_JPEG_SEGMENTS):
        if marker in STARTS_OF_FRAME:
            return int.from_bytes(data[end + 3 : end + 5])
    return MAX_JPEG_HEIGHT
