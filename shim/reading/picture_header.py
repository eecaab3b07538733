"""The header of a picture file, of which only so much is read.

A reader of headers joins and lists what the author of the file has cut into pieces: a million empty ones take seconds,
and some kinds of them are copied with every further one.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

START_BYTES = 24  # of a file, by which these two tell it
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

MAX_READS = 2**14
MAX_BYTES = 2**24
EXIF = b"Exif\0\0"
MAX_EXIF_SEGMENTS = 4  # of 64 KiB of a JPEG, whose fractions Pillow makes objects of; one is usual


def png_size(start: bytes) -> tuple[int, int] | None:
    """Width and height, which stand in front of all else: Pillow, on its way to the pixels, unpacks texts as well."""
    return struct.unpack(">LL", start[len(PNG) :]) if start.startswith(PNG) and len(start) == START_BYTES else None


def is_heic(start: bytes) -> bool:
    """Of AVIF, which lies in the same kind of container, the brand is another."""
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def is_tiff(start: bytes) -> bool:
    return start.startswith((b"II*\0", b"MM\0*"))


class TooLong(Exception):
    """The header is too long."""


class Header:
    """As much of a file as Pillow's readers of headers need of its methods."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self._bytes = 0
        self._exif_segments = 0
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """A read of everything is how WebP is opened, which has its header in front: its bytes are not counted."""
        self._reads += 1
        self._bytes += max(0, size)
        if self._reads > MAX_READS or self._bytes > MAX_BYTES:
            raise TooLong
        data = self._file.read(size)
        self._exif_segments += data.startswith(EXIF)
        if self._exif_segments > MAX_EXIF_SEGMENTS:
            raise TooLong
        return data
