"""How many pixels a picture may have, and what decoding a TIFF goes over, told from its directory: its pieces may
outgrow, repeat and overlap their picture.

A piece is a tile or a strip, of one plane where planes are apart. The shim and the model have this file in common,
byte for byte, as neither imports the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

JPEGS = ("JPEG", "MPO")
JPEG_TIMES = 2  # as many pixels as others: a large one is shrunk while it is decoded

WIDTH, LENGTH, COMPRESSION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION = 256, 257, 259, 277, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTE_COUNTS = 273, 278, 279
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS = 322, 323, 324, 325
TILE_TAGS = {TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTE_COUNTS}
LISTS = {STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS}
ONE_VALUE = {WIDTH, LENGTH, COMPRESSION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION}
ONE_VALUE |= {ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH}

WHOLE_NUMBERS = (3, 4, 16)  # SHORT, LONG, LONG8
MAX_ENTRIES = 4096  # libtiff's own limit
TIMES = 2  # its own pixels, as tiles at the edges are padded, and its own bytes, as blank tiles may be shared
SPARE_PIXELS = 2**22  # and a small picture may have one large tile
LEAST_PIXELS = 2**10  # what a piece costs however small it is


@dataclass(frozen=True)
class Pieces:
    width: int
    length: int
    down: int  # how many in a column
    needed: int  # how many in the picture
    offsets: int  # the tag that lists where they are
    byte_counts: int


def most_pixels(file_format: str | None, max_pixels: int) -> int:
    """That a picture may have, where `max_pixels` is the limit of all formats but JPEG."""
    return JPEG_TIMES * max_pixels if file_format in JPEGS else max_pixels


def excess(tags: ImageFileDirectory_v2, file: IO[bytes]) -> str | None:
    """What this TIFF has more of than its pixels and its bytes explain, if anything."""
    listed = _plain_entries(tags, file)
    if listed is None:
        return "has a TIFF directory that can be read in two ways"
    if STRIP_OFFSETS in tags and TILE_TAGS & tags.keys():
        return "has both tiles and strips"
    parts = pieces(tags)
    if not parts.width * parts.length:
        return "has tiles or strips of no size"
    count = max(parts.needed, listed.get(parts.offsets, 0), listed.get(parts.byte_counts, 0))
    return _too_many_pixels(tags, parts, count) or _too_many_bytes(tags, parts, file)


def pieces(tags: ImageFileDirectory_v2) -> Pieces:
    if TILE_TAGS & tags.keys():
        width, length = tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0)
        lists = TILE_OFFSETS, TILE_BYTE_COUNTS
    else:
        width, length = tags[WIDTH], min(tags.get(ROWS_PER_STRIP, tags[LENGTH]), tags[LENGTH])
        lists = STRIP_OFFSETS, STRIP_BYTE_COUNTS
    across, down = -(-tags[WIDTH] // max(1, width)), -(-tags[LENGTH] // max(1, length))
    return Pieces(width, length, down, across * down * _planes(tags), *lists)


def _planes(tags: ImageFileDirectory_v2) -> int:
    samples: int = tags.get(SAMPLES_PER_PIXEL, 1)
    return samples if tags.get(PLANAR_CONFIGURATION) == 2 else 1


def _too_many_pixels(tags: ImageFileDirectory_v2, parts: Pieces, count: int) -> str | None:
    allowed = TIMES * tags[WIDTH] * tags[LENGTH] * _planes(tags) + SPARE_PIXELS
    if count * max(parts.width * parts.length, LEAST_PIXELS) <= allowed:
        return None
    return (
        f"has tiles or strips of {count} times {parts.width}x{parts.length} pixels: at most {allowed} together are "
        f"allowed for {tags[WIDTH]}x{tags[LENGTH]}, each counted as at least {LEAST_PIXELS}"
    )


def _too_many_bytes(tags: ImageFileDirectory_v2, parts: Pieces, file: IO[bytes]) -> str | None:
    """A piece may have endless bytes that hold no pixel, and share them with the others."""
    taken, allowed = sum(tags.get(parts.byte_counts, ())), TIMES * file.seek(0, 2) + tags[WIDTH] * tags[LENGTH]
    if taken <= allowed:
        return None
    return f"has tiles or strips of {taken} bytes together: at most {allowed} are allowed"


def _plain_entries(tags: ImageFileDirectory_v2, file: IO[bytes]) -> dict[int, int] | None:
    """How many values each has of the tags that count here; None if libtiff, which reads the directory again, may find
    others than Pillow, which passes over what it does not know.
    """
    file.seek(0)
    magic = file.read(4)
    if magic == b"MM\0+":  # Pillow reads it as if it were a classic TIFF
        return None
    order = "<" if tags.prefix == b"II" else ">"
    number, entry = (f"{order}Q", f"{order}HHQ8x") if magic == b"II+\0" else (f"{order}H", f"{order}HHL4x")
    file.seek(tags.offset)
    (length,) = struct.unpack(number, file.read(struct.calcsize(number)))
    if length > MAX_ENTRIES:
        return None
    found = struct.iter_unpack(entry, file.read(length * struct.calcsize(entry)))
    entries = [(tag, kind, count) for tag, kind, count in found if tag in ONE_VALUE | LISTS]
    counts = {tag: count for tag, _, count in entries}
    plain = all(kind in WHOLE_NUMBERS and tag in tags and (count == 1 or tag in LISTS) for tag, kind, count in entries)
    return counts if plain and len(counts) == len(entries) else None
