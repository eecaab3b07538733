"""Picture files that cost, or try to cost, far more than their bytes: each a function from its size to the file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

SIDE = 64
PNG_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
EXIF = b"Exif\0\0"


def saved(picture: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def gradient(side: int = SIDE) -> Image.Image:
    return Image.radial_gradient("L").resize((side, side))


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*before_pixels: bytes, after_pixels: bytes = b"", side: int = SIDE) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * ((side * 3 + 1) * side)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before_pixels) + pixels + after_pixels + PNG_END


def png_of_empty_chunks(count: int) -> bytes:
    return png(png_chunk(b"teSt") * count)


def png_with_empty_chunks_behind(count: int) -> bytes:
    return png(after_pixels=png_chunk(b"teSt") * count)


def png_of_empty_pixel_chunks(count: int) -> bytes:
    return png(png_chunk(b"IDAT") * count)


def png_with_texts(megabytes: int) -> bytes:
    return png(*[png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20)))] * megabytes)


def png_with_text(megabytes: int) -> bytes:
    return png(png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(megabytes * 2**20))))


def png_with_profile(megabytes: int) -> bytes:
    return png(png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(megabytes * 2**20))))


def png_with_exif_that_repeats_itself(tags: int) -> bytes:
    return png(png_chunk(b"eXIf", overlapping_tags(tags, 2**16)))


def overlapping_tags(count: int, size: int) -> bytes:
    """A TIFF directory whose tags all have the same bytes as their value."""
    start = 8 + 2 + 12 * count + 4
    entries = b"".join(struct.pack("<HHII", tag, 7, size, start) for tag in range(1, count + 1))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", 0) + bytes(size)


def jpeg(**options: object) -> bytes:
    return saved(gradient().convert("RGB"), "JPEG", **options)


def jpeg_segment(marker: int, data: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    plain = jpeg()
    return plain[:2] + b"".join(segments) + plain[2:]


def jpeg_of_empty_segments(count: int) -> bytes:
    return jpeg_with(jpeg_segment(0xEF) * count)


def jpeg_of_exif_segments(count: int) -> bytes:
    return jpeg_with(jpeg_segment(0xE1, EXIF + bytes(65_000)) * count)


def jpeg_with_exif_that_repeats_itself(tags: int) -> bytes:
    return jpeg_with(jpeg_segment(0xE1, EXIF + overlapping_tags(tags, 40_000)))


def jpeg_of_absurd_size(side: int) -> bytes:
    plain = jpeg()
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", side, side) + plain[at + 4 :]


def jpeg_of_scans(count: int, side: int = 2048) -> bytes:
    """Progressive, its last scan repeated: a few bytes that go over every pixel."""
    whole = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    return whole[:start] + whole[start:-2] * count + b"\xff\xd9"


def gif_of_comments(count: int) -> bytes:
    plain = saved(Image.new("P", (SIDE, SIDE)), "GIF")
    table = 3 * 2 ** ((plain[10] & 7) + 1) if plain[10] & 0x80 else 0
    return plain[: 13 + table] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * count + b"\0" + plain[13 + table :]


def animation(frames: int, file_format: str) -> bytes:
    pictures = [Image.new("RGB", (SIDE, SIDE), (n % 256, 0, 0)) for n in range(frames)]
    return saved(pictures[0], file_format, save_all=True, append_images=pictures[1:])


def tiff(*entries: tuple[int, int, int], side: int = SIDE, data: bytes = b"") -> bytes:
    """8-bit grey; entries are (tag, count, value) of type LONG, where a value of -1 is the offset of `data`."""
    tags = {256: (1, side), 257: (1, side), 258: (1, 8), 259: (1, 1), 262: (1, 1), 277: (1, 1)}
    tags |= {tag: (count, value) for tag, count, value in entries}
    start = 8 + 2 + 12 * len(tags) + 4
    listed = [(tag, 4, count, start if value == -1 else value) for tag, (count, value) in sorted(tags.items())]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in listed)
    return b"II*\0" + struct.pack("<IH", 8, len(listed)) + packed + struct.pack("<I", 0) + data


def tiff_of_strips(count: int) -> bytes:
    return tiff((273, count, -1), (279, 1, 0), data=bytes(4 * count))


def tiff_of_a_huge_tile(side: int) -> bytes:
    tile = zlib.compress(bytes(side * side))
    return tiff((259, 1, 8), (322, 1, side), (323, 1, side), (324, 1, -1), (325, 1, len(tile)), data=tile)


def tiff_of_jpeg_scans(count: int, side: int = 2048) -> bytes:
    strip = jpeg_of_scans(count, side)
    return tiff((259, 1, 7), (273, 1, -1), (278, 1, side), (279, 1, len(strip)), side=side, data=strip)


def bmp_of_single_pixels(side: int) -> bytes:
    """Run-length encoded, each pixel a run of its own."""
    runs = (b"\x01\x07" * side + b"\0\0") * side
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + header + bytes(1024) + runs


Make = Callable[[int], bytes]

# What is refused for the work it would be, with a size that shows it.
LABORIOUS: dict[str, tuple[Make, int]] = {
    "png of empty chunks": (png_of_empty_chunks, 100_000),
    "png with empty chunks behind its pixels": (png_with_empty_chunks_behind, 100_000),
    "png of empty pixel chunks": (png_of_empty_pixel_chunks, 100_000),
    "jpeg of empty segments": (jpeg_of_empty_segments, 10_000),
    "jpeg of scans": (jpeg_of_scans, 1_000),
    "tiff of a huge tile": (tiff_of_a_huge_tile, 8_000),
    "tiff of jpeg scans": (tiff_of_jpeg_scans, 1_000),
    "bmp of single pixels": (bmp_of_single_pixels, 400),
}
# What Pillow itself bounds, or what is harmless.
LIGHT: dict[str, tuple[Make, int]] = {
    "png with texts of 60 MB": (png_with_texts, 60),
    "png with texts of 80 MB": (png_with_texts, 80),
    "png with a text of 256 MB": (png_with_text, 256),
    "png with a profile of 256 MB": (png_with_profile, 256),
    "png with exif that repeats itself": (png_with_exif_that_repeats_itself, 5_000),
    "jpeg of exif segments": (jpeg_of_exif_segments, 200),
    "jpeg with exif that repeats itself": (jpeg_with_exif_that_repeats_itself, 2_000),
    "jpeg of absurd size": (jpeg_of_absurd_size, 65_500),
    "gif of comments": (gif_of_comments, 20_000),
    "tiff of strips": (tiff_of_strips, 1_000_000),
    "gif of many frames": (lambda frames: animation(frames, "GIF"), 500),
    "png of many frames": (lambda frames: animation(frames, "PNG"), 500),
    "webp of many frames": (lambda frames: animation(frames, "WEBP"), 500),
}
