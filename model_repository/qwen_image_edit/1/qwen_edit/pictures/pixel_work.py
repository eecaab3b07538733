"""How many pixels a picture may have, and what decoding a TIFF goes over, told from its directory: its pieces may
outgrow, repeat and overlap their picture.

A piece is a tile or a strip, of one plane where planes are apart. The shim and the model have this file in common,
byte for byte, as neither imports the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, NamedTuple

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

RAW, OLD_JPEG = 1, 6  # compressions; what the second does is told by no directory, and few readers know it

BYTES = (1, 2, 7)  # BYTE, ASCII, UNDEFINED
WHOLE_NUMBERS = (3, 4, 16)  # SHORT, LONG, LONG8
RATIONALS = (5, 10)
RATIONAL_WEIGHT = 64  # numbers, as Pillow makes an object of each
MAX_NUMBERS = 2**18  # in tags; the curves of a picture of 16 bits take three times 2¹⁶
MAX_ENTRIES = 4096  # libtiff's own limit
TWO_WAYS = "has a TIFF directory that can be read in two ways"
TIMES = 2  # its own pixels, as tiles at the edges are padded, and its own bytes, as tiles may be shared
SPARE_BYTES = 2**20  # and a small file may have thousands of blank tiles
SPARE_PIXELS = 2**22  # and a small picture may have one large tile
LEAST_PIXELS = 2**10  # what a piece costs however small it is


class Entry(NamedTuple):
    """Of a TIFF's directory."""

    tag: int
    kind: int
    values: int


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


def unreadable(file: IO[bytes]) -> str | None:
    """What a TIFF's directory has that no reader should be given, if anything; None of other files."""
    file.seek(0)
    if file.read(2) not in (b"II", b"MM"):
        return None
    entries = _entries(file)
    if entries is None:
        return TWO_WAYS
    numbers = sum(map(_numbers, entries))
    if numbers <= MAX_NUMBERS:
        return None
    return (
        f"has a TIFF directory of {numbers} numbers: at most {MAX_NUMBERS} are allowed, "
        f"each fraction counted as {RATIONAL_WEIGHT}"
    )


def excess(tags: ImageFileDirectory_v2, file: IO[bytes]) -> str | None:
    """What this TIFF has more of than its pixels and its bytes explain, if anything."""
    listed = _plain_entries(tags, file)
    if listed is None:
        return TWO_WAYS
    if tags.get(COMPRESSION) == OLD_JPEG:
        return "has tiles or strips of the old JPEG compression (6), which is not taken: use 7"
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
    """A piece may have endless bytes that hold no pixel, and share them with the others; not where none is packed."""
    if tags.get(COMPRESSION, RAW) == RAW:
        return None
    taken, allowed = sum(tags.get(parts.byte_counts, ())), TIMES * file.seek(0, 2) + SPARE_BYTES
    if taken <= allowed:
        return None
    return f"has tiles or strips of {taken} bytes together: at most {allowed} are allowed"


def _plain_entries(tags: ImageFileDirectory_v2, file: IO[bytes]) -> dict[int, int] | None:
    """How many values each has of the tags that count here; None if libtiff, which reads the directory again, may find
    others than Pillow, which passes over what it does not know.
    """
    entries = [entry for entry in _entries(file) or () if entry.tag in ONE_VALUE | LISTS]
    counts = {entry.tag: entry.values for entry in entries}
    plain = all(
        each.kind in WHOLE_NUMBERS and each.tag in tags and (each.values == 1 or each.tag in LISTS) for each in entries
    )
    return counts if plain and counts and len(counts) == len(entries) else None


def _entries(file: IO[bytes]) -> list[Entry] | None:
    """Of the first directory; None where readers differ about what they are."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(b"MM\0+"):  # Pillow reads it as if it were a classic TIFF
        return None
    order = "<" if head.startswith(b"II") else ">"
    first, number, entry = ("8xQ", "Q", "HHQ8x") if head.startswith(b"II+\0") else ("4xL", "H", "HHL4x")
    (offset,) = struct.unpack_from(order + first, head)
    file.seek(offset)
    (length,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    if length > MAX_ENTRIES:
        return None
    found = struct.iter_unpack(order + entry, file.read(length * struct.calcsize(order + entry)))
    return [Entry(*fields) for fields in found]


def _numbers(entry: Entry) -> int:
    """That Pillow makes of it, lists of pieces left out, which `excess` counts."""
    if entry.kind in BYTES or (entry.kind in WHOLE_NUMBERS and entry.tag in LISTS):
        return 0
    return entry.values * (RATIONAL_WEIGHT if entry.kind in RATIONALS else 1)
