"""Picture files that cost, or try to cost, far more than their bytes: each a function from its size to the file."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.kit.coloured_pictures import PROFILES

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


def jpeg_of_exif_pieces(count: int) -> bytes:
    return jpeg_with(jpeg_segment(0xE1, EXIF + b"x") * count)


def jpeg_of_tables(segments: int) -> bytes:
    """Each with the same one again and again, which Pillow reads number by number."""
    return jpeg_with(jpeg_segment(0xDB, bytes(65) * 1000) * segments)


def jpeg_with_exif_that_repeats_itself(tags: int) -> bytes:
    return jpeg_with(jpeg_segment(0xE1, EXIF + overlapping_tags(tags, 40_000)))


def jpeg_of_absurd_size(side: int) -> bytes:
    plain = jpeg()
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", side, side) + plain[at + 4 :]


def jpeg_of_scans(count: int, side: int = 2048, mode: str = "L") -> bytes:
    """Progressive, its last scan repeated: a few bytes that go over every pixel."""
    whole = saved(Image.new(mode, (side, side)), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    return whole[:start] + whole[start:-2] * count + b"\xff\xd9"


def jpeg_of_fractions(count: int) -> bytes:
    """In an EXIF block of many segments, which Pillow joins; it looks there for a resolution."""
    block = tiff((282, count, -1), (296, 1, 2)).replace(
        struct.pack("<HH", 282, LONG), struct.pack("<HH", 282, RATIONAL)
    )
    block += struct.pack("<II", 3, 7) * count
    parts = [block[start : start + 65_000] for start in range(0, len(block), 65_000)]
    return jpeg_with(*[jpeg_segment(0xE1, EXIF + part) for part in parts])


def jpeg_of_arithmetic_coding(start_of_frame: int) -> bytes:
    """Says so of itself."""
    return jpeg().replace(b"\xff\xc0", bytes([0xFF, start_of_frame]), 1)


def jpeg_of_hidden_scans(count: int) -> bytes:
    """Behind a marker that has no length, where whoever reads one skips 64 KiB."""
    whole = saved(Image.new("L", (2048, 2048)), "JPEG", progressive=True)
    start = whole.rindex(b"\xff\xda")
    return whole[:start] + b"\xff\x01" + whole[start:-2] * count + b"\xff\xd9"


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


Values = int | tuple[int, ...]
GREY: dict[int, Values] = {262: 1}
RGB: dict[int, Values] = {258: (8, 8, 8), 262: 2, 277: 3}
DEFLATED: dict[int, Values] = {259: 8}
LONG, RATIONAL, UNDEFINED, SLONG, LONG8, SLONG8 = 4, 5, 7, 9, 16, 17
TIFF_KINDS = {LONG: "I", SLONG: "i", SLONG8: "q"}
DATA_AT = 8
PRIVATE = 65_000  # a tag that nobody reads
STRIPS, TILES = (273, 279), (324, 325)


def tiff_of_pieces(
    size: tuple[int, int],
    tags: dict[int, Values],
    lists: tuple[int, int],
    count: int,
    data: bytes,
    kinds: dict[int, int] | None = None,
) -> bytes:
    """Its tiles, or strips, are all the same bytes."""
    values: dict[int, Values] = {256: size[0], 257: size[1], 258: 8, 259: 1, 277: 1} | GREY | tags
    entries = [(tag, value if isinstance(value, tuple) else (value,)) for tag, value in values.items()]
    entries += [(lists[0], (DATA_AT,) * count), (lists[1], (len(data),) * count)]
    return tiff_directory(sorted(entries), data, kinds or {})


def tiff_directory(entries: list[tuple[int, tuple[int, ...]]], data: bytes, kinds: dict[int, int]) -> bytes:
    """The data at the front, the values that need more than four bytes behind it, the directory last."""
    body, listed = data, b""
    for tag, values in entries:
        kind = kinds.get(tag, LONG)
        packed = struct.pack(f"<{len(values)}{TIFF_KINDS[kind]}", *values)
        if len(packed) > 4:
            listed += struct.pack("<HHII", tag, kind, len(values), DATA_AT + len(body))
            body += packed
        else:
            listed += struct.pack("<HHI4s", tag, kind, len(values), packed)
    return (
        b"II*\0" + struct.pack("<I", DATA_AT + len(body)) + body + struct.pack("<H", len(entries)) + listed + bytes(4)
    )


@functools.cache
def deflated_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def tiff_of_tiles(
    size: tuple[int, int], tile: tuple[int, int], samples: int = 1, planes: int = 1, kinds: dict[int, int] | None = None
) -> bytes:
    tags = DEFLATED | (RGB if samples * planes == 3 else GREY) | {284: min(planes, 2), 322: tile[0], 323: tile[1]}
    count = -(-size[0] // tile[0]) * -(-size[1] // tile[1]) * planes
    return tiff_of_pieces(size, tags, TILES, count, deflated_zeros(tile[0] * tile[1] * samples), kinds)


def tiff_of_187_gigabytes(rows: int) -> bytes:
    """156 KB: a tile has as many pixels as the picture, 50 million, and there are 1250 tiles."""
    return tiff_of_tiles((20_000, 2_500), (16, rows), samples=3)


def tiff_of_long_tiles(rows: int) -> bytes:
    return tiff_of_tiles((1_600, 200), (16, rows))


def tiff_of_wide_tiles(columns: int) -> bytes:
    return tiff_of_tiles((200, 1_600), (columns, 16))


def tiff_of_padded_planes(rows: int) -> bytes:
    return tiff_of_tiles((4_000, 1_000), (16, rows), planes=3)


def tiff_of_tiny_tiles(side: int) -> bytes:
    return tiff_of_tiles((2_000, 2_000), (side, side))


def tiff_of_strips_again_and_again(count: int) -> bytes:
    """Uncompressed, half of the picture in each strip: Pillow decodes all that are listed."""
    return tiff_of_pieces((1_000, 1_000), {278: 500, 279: 500_000}, (273, PRIVATE), count, bytes(500_000))


def tiff_of_byte_counts(count: int) -> bytes:
    return tiff_of_pieces(
        (1_000, 1_000), DEFLATED | {278: 1_000, 279: (1,) * count}, (273, PRIVATE), 1, deflated_zeros(10**6)
    )


def tiff_of_empty_blocks(count: int, tags: dict[int, Values] | None = None) -> bytes:
    """Deflate blocks without a byte, in front of each of 1000 rows, which share them."""
    row = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    blocks = b"\0\0\0\xff\xff" * count + row.compress(bytes(1_000)) + row.flush()
    data = b"\x78\x01" + blocks + struct.pack(">I", zlib.adler32(bytes(1_000)))
    return tiff_of_pieces((1_000, 1_000), DEFLATED | {278: 1} | (tags or {}), STRIPS, 1_000, data)


def tiff_of_clear_codes(count: int) -> bytes:
    """LZW codes that hold no byte, nine bits each, in front of each of 50 strips, which share them."""
    eight = sum(256 << 9 * place for place in range(8)).to_bytes(9, "little")
    return tiff_of_pieces((2_000, 2_000), {259: 5, 278: 40}, STRIPS, 50, eight * (count // 8))


def tiff_of_old_jpeg(scans: int) -> bytes:
    return tiff_of_pieces((64, 64), {259: 6, 278: 64}, STRIPS, 1, jpeg_of_scans(scans, 64))


def tiff_of_fractions(count: int) -> bytes:
    """Its horizontal resolution, of which one is usual."""
    fraction = struct.pack("<II", 3, 7)
    plain = tiff_of_pieces((SIDE, SIDE), DEFLATED | {278: SIDE, 282: 0}, STRIPS, 1, deflated_zeros(SIDE * SIDE))
    entry = struct.pack("<HHII", 282, RATIONAL, count, len(plain))
    return plain.replace(struct.pack("<HHII", 282, LONG, 1, 0), entry) + fraction * count


def tiff_of_nops(count: int) -> bytes:
    """PackBits codes that do nothing."""
    return tiff_of_pieces((1_000, 1_000), {259: 32_773, 278: 1}, STRIPS, 1_000, b"\x80" * count + b"\x81\0" * 8)


def tiff_of_tiles_that_only_libtiff_sees(rows: int) -> bytes:
    """Pillow passes over a tag of type SLONG8."""
    return tiff_of_tiles((SIDE, SIDE), (16, rows), kinds={323: SLONG8})


def tiff_of_signed_byte_counts(count: int) -> bytes:
    return tiff_of_pieces((1_000, 1_000), DEFLATED | {278: 1_000}, STRIPS, 1, deflated_zeros(10**6), kinds={279: SLONG})


def bigtiff_of_tags_twice(rows: int) -> bytes:
    zeros = deflated_zeros(SIDE * rows)
    listed = b"".join(struct.pack("<HHQQ", tag, LONG8, 1, value) for tag, value in tags_twice(rows, len(zeros)))
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(zeros)) + zeros
    return head + struct.pack("<Q", len(listed) // 20) + listed + bytes(8)


def tiff_of_byte_counts_that_only_libtiff_sees(count: int) -> bytes:
    """Pillow passes over what comes after as many bytes of values as the file has."""
    plain = tiff_of_empty_blocks(count, {270: 0})
    size = len(plain) - 6_000  # and the offsets are 4000
    return plain.replace(struct.pack("<HHII", 270, LONG, 1, 0), struct.pack("<HHII", 270, UNDEFINED, size, DATA_AT))


def tiff_of_tags_twice(rows: int) -> bytes:
    zeros = deflated_zeros(SIDE * rows)
    return tiff_directory([(tag, (value,)) for tag, value in tags_twice(rows, len(zeros))], zeros, {})


def tags_twice(rows: int, size: int) -> list[tuple[int, int]]:
    """Of two entries for a tag some readers take the first, others the last."""
    fixed = [(256, SIDE), (257, SIDE), (258, 8), (259, 8), (262, 1), (277, 1)]
    return [*fixed, (322, SIDE), (323, SIDE), (323, rows), (324, DATA_AT), (325, size)]


def tiff_of_a_tag_with_two_values(rows: int) -> bytes:
    return tiff_of_pieces((SIDE, SIDE), DEFLATED | {278: (SIDE, rows)}, STRIPS, 1, deflated_zeros(SIDE * SIDE))


def big_endian_bigtiff(rows: int) -> bytes:
    """Pillow reads it as a classic TIFF, whose directory may lie wherever the high bytes of an offset say."""
    tags = {256: SIDE, 257: SIDE, 258: 8, 259: 8, 262: 1, 277: 1, 273: 8, 278: rows, 279: 8}
    listed = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    listed += struct.pack(">HHII", 282, RATIONAL, 500_000, 16 + 2 + 12 * (len(tags) + 1) + 4)
    head = b"MM\0+" + struct.pack(">HHI", 0, 16, 0) + bytes(4) + struct.pack(">H", len(tags) + 1)
    return head + listed + bytes(4) + struct.pack(">II", 3, 7) * 500_000


def tiff_of_many_tags(count: int) -> bytes:
    tags: dict[int, Values] = {40_000 + number: 1 for number in range(count)}
    return tiff_of_pieces((SIDE, SIDE), DEFLATED | tags, STRIPS, 1, deflated_zeros(SIDE * SIDE))


def tiff_of_strips_and_tiles(count: int) -> bytes:
    """libtiff would take them for tiles, Pillow for strips."""
    tags: dict[int, Values] = {278: 500, 279: 500_000, 322: 1_008, 323: 1_008}
    return tiff_of_pieces((1_000, 1_000), tags, (273, PRIVATE), count, bytes(500_000))


def tiff_of_no_size(side: int) -> bytes:
    return tiff_of_pieces((SIDE, SIDE), DEFLATED | {322: side, 323: side}, TILES, 1, b"")


def tiff_of_jpeg_tiles(scans: int) -> bytes:
    tile = jpeg_of_scans(scans, 1_024)
    return tiff_of_pieces((2_048, 2_048), {259: 7, 322: 1_024, 323: 1_024}, TILES, 4, tile)


def tiff_of_jpeg_planes(scans: int) -> bytes:
    plane = jpeg_of_scans(scans, 1_024)
    return tiff_of_pieces((1_024, 1_024), RGB | {259: 7, 278: 1_024, 284: 2}, STRIPS, 3, plane)


def tiff_of_a_high_jpeg(scans: int) -> bytes:
    """In its last, and only, strip, which is all that libtiff lets be higher than the picture."""
    return tiff_of_pieces((2_048, 256), {259: 7, 278: 256}, STRIPS, 1, jpeg_of_scans(scans, 2_048))


def tiff_of_hidden_high_jpegs(segments: int) -> bytes:
    """Their height stands behind more segments than are read."""
    high = jpeg_of_scans(80, 2_048)
    data = high[:2] + jpeg_segment(0xEF) * segments + high[2:]
    return tiff_of_pieces((2_048, 256), RGB | {259: 7, 278: 256, 284: 2}, STRIPS, 3, data)


def tiff_of_jpeg_without_byte_counts(scans: int) -> bytes:
    return tiff_of_pieces((2_048, 2_048), {259: 7, 278: 2_048}, (273, PRIVATE), 1, jpeg_of_scans(scans, 2_048))


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
    "jpeg of exif pieces": (jpeg_of_exif_pieces, 4_000),
    "jpeg of tables": (jpeg_of_tables, 800),
    "jpeg of scans": (jpeg_of_scans, 1_000),
    "jpeg of hidden scans": (jpeg_of_hidden_scans, 1_000),
    "jpeg of scans without end": (lambda scans: jpeg_of_scans(scans, 32), 100_000),
    "bmp of single pixels": (bmp_of_single_pixels, 400),
}
# What a TIFF's header tells: its pieces together are far more than the picture.
MULTIPLYING: dict[str, tuple[Make, int]] = {
    "tiff of 187 gigabytes": (tiff_of_187_gigabytes, 3_125_000),
    "tiff of long tiles": (tiff_of_long_tiles, 100_000),
    "tiff of wide tiles": (tiff_of_wide_tiles, 100_000),
    "tiff of a huge tile": (tiff_of_a_huge_tile, 8_000),
    "tiff of padded planes": (tiff_of_padded_planes, 4_000),
    "tiff of tiny tiles": (tiff_of_tiny_tiles, 4),
    "tiff of strips again and again": (tiff_of_strips_again_and_again, 1_000),
    "tiff of byte counts": (tiff_of_byte_counts, 1_000_000),
    "tiff of empty blocks": (tiff_of_empty_blocks, 200_000),
    "tiff of clear codes": (tiff_of_clear_codes, 60_000),
    "tiff of old jpeg": (tiff_of_old_jpeg, 1),
    "tiff of fractions": (tiff_of_fractions, 900_000),
    "tiff of nops": (tiff_of_nops, 1_000_000),
    "tiff of tiles that only libtiff sees": (tiff_of_tiles_that_only_libtiff_sees, 2_000_000),
    "bigtiff of tags twice": (bigtiff_of_tags_twice, 2_000_000),
    "tiff of byte counts that only libtiff sees": (tiff_of_byte_counts_that_only_libtiff_sees, 200_000),
    "tiff of signed byte counts": (tiff_of_signed_byte_counts, 1),
    "tiff of tags twice": (tiff_of_tags_twice, 2_000_000),
    "tiff of a tag with two values": (tiff_of_a_tag_with_two_values, 1),
    "big-endian bigtiff": (big_endian_bigtiff, 64),
    "tiff of many tags": (tiff_of_many_tags, 5_000),
    "tiff of strips and tiles": (tiff_of_strips_and_tiles, 1_000),
    "tiff of no size": (tiff_of_no_size, 0),
}
# What only the whole file tells: how often each piece is gone over.
SCANNING: dict[str, tuple[Make, int]] = {
    "tiff of jpeg scans": (tiff_of_jpeg_scans, 1_000),
    "tiff of jpeg tiles": (tiff_of_jpeg_tiles, 60),
    "tiff of jpeg planes": (tiff_of_jpeg_planes, 80),
    "tiff of a high jpeg": (tiff_of_a_high_jpeg, 80),
    "tiff of hidden high jpegs": (tiff_of_hidden_high_jpegs, 60_000),
    "tiff of jpeg without byte counts": (tiff_of_jpeg_without_byte_counts, 80),
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


def jpeg_of_seconds() -> bytes:
    """Let through where MAX_INPUT_PIXELS is 10⁹."""
    return jpeg_of_scans(500, 8_191)


def black(mode: str, side: int, file_format: str, **options: object) -> bytes:
    return saved(Image.new(mode, (side, side)), file_format, **options)


def float_tiff(side: int) -> bytes:
    return black("F", side, "TIFF", compression="tiff_adobe_deflate")


def tiff_of_shared_planes(side: int) -> bytes:
    return tiff_of_tiles((side, side), (side // 10, side // 10), planes=3)


def tiff_of_rows(side: int) -> bytes:
    """A strip a row, which all are the same bytes."""
    row = deflated_zeros(3 * side)
    return tiff_of_pieces((side, side), DEFLATED | RGB | {278: 1}, STRIPS, side, row)


def frames(file_format: str, side: int) -> bytes:
    pictures = [Image.new("RGB", (side, side), color) for color in ("black", "red")]
    return saved(pictures[0], file_format, save_all=True, append_images=pictures[1:])


OTHERS_SIDE, JPEG_SIDE = 5_680, 8_191  # nearly as many pixels as are taken
# What is let through, as its pixels and its pieces are in bounds, and costs all that these bounds leave.
EXPENSIVE: dict[str, Callable[[], bytes]] = {
    "jpeg of scans": lambda: jpeg_of_scans(20, JPEG_SIDE, "RGB"),
    "webp with alpha": lambda: black("RGBA", OTHERS_SIDE, "WEBP"),
    "png with alpha": lambda: black("RGBA", OTHERS_SIDE, "PNG"),
    "tiff of floats": lambda: float_tiff(OTHERS_SIDE),
    "webp": lambda: black("RGB", OTHERS_SIDE, "WEBP"),
    "lossless webp": lambda: black("RGBA", OTHERS_SIDE, "WEBP", lossless=True),
    "webp of frames": lambda: frames("WEBP", OTHERS_SIDE),
    "png of 16 bits": lambda: black("I;16", OTHERS_SIDE, "PNG"),
    "png of a transparent palette": lambda: black("P", OTHERS_SIDE, "PNG", transparency=0),
    "png of frames": lambda: frames("PNG", OTHERS_SIDE),
    "grey jpeg": lambda: black("L", JPEG_SIDE, "JPEG"),
    "progressive jpeg": lambda: black("RGB", JPEG_SIDE, "JPEG", progressive=True),
    "progressive jpeg of full colour": lambda: black("RGB", JPEG_SIDE, "JPEG", progressive=True, subsampling=0),
    "gif of frames": lambda: frames("GIF", OTHERS_SIDE),
    "gif with transparency": lambda: black("P", OTHERS_SIDE, "GIF", transparency=0),
    "bmp of runs": lambda: bmp_of_single_pixels(640),
    "tiff of tiles": lambda: tiff_of_tiles((OTHERS_SIDE, OTHERS_SIDE), (64, 64), samples=3),
    "tiff of shared planes": lambda: tiff_of_shared_planes(OTHERS_SIDE),
    "tiff of rows": lambda: tiff_of_rows(OTHERS_SIDE),
    "tiff of one strip": lambda: black("RGBA", 5_500, "TIFF", compression="tiff_lzw"),
    "png with alpha and a profile": lambda: black("RGBA", OTHERS_SIDE, "PNG", icc_profile=PROFILES["adobe-rgb"]),
    "tiff of ink": lambda: black("CMYK", OTHERS_SIDE, "TIFF", compression="tiff_lzw", icc_profile=PROFILES["press"]),
    "jpeg of ink": lambda: black("CMYK", 4_500, "JPEG", icc_profile=PROFILES["press"]),
    "avif": lambda: black("RGB", OTHERS_SIDE, "AVIF", speed=10),
    "avif with alpha and a profile": lambda: black(
        "RGBA", OTHERS_SIDE, "AVIF", speed=10, icc_profile=PROFILES["display-p3"]
    ),
    "jpeg without an end": lambda: black("RGB", 8_000, "JPEG")[:-2],
    "fax": lambda: black("1", OTHERS_SIDE, "TIFF", compression="group4"),
}
