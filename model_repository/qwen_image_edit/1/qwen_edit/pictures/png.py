"""PNG files, chunk by chunk: what their pixels need goes to Pillow, what their colours mean is read here.

Texts, times and other side chunks are left out, whatever is wrong with them: Pillow refuses a picture for a checksum of
its date, or for megabytes of text beside it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from qwen_edit.pictures.bombs import BYTES_PER_READ, FREE_READS, TooLaborious
from qwen_edit.pictures.profiles import MAX_PROFILE, SRGB_PRIMARIES, Primaries, profile_of_cicp, profile_of_gamma

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FOR_PILLOW = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
OF_COLOUR = {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}
GREY, RGB, GREY_AND_ALPHA = 0, 2, 4  # colour types
UNIT = 100_000  # of gAMA and cHRM
SRGB_GAMMA, TOLERANCE = 45_455, 0.05  # as libpng has it: so near, gAMA alone is how older programs said sRGB


@dataclass(frozen=True)
class Png:
    data: bytes  # for Pillow
    profile: bytes | None  # ICC; None: sRGB, or nothing is said
    is_grey: bool
    transparency: int | tuple[int, int, int] | None  # the value, as Pillow has it in a picture of at most 8 bits


def read(data: bytes) -> Png:
    """`data` begins with the signature; what is damaged beyond the side chunks is left to Pillow."""
    kept, colour, found = [SIGNATURE], dict[bytes, bytes](), dict[bytes, bytes]()
    for name, chunk, content in _chunks(data):
        if name in OF_COLOUR:
            colour.setdefault(name, content)
        elif name in FOR_PILLOW or not chunk:
            kept.append(chunk or data[-len(content) :])
            found.setdefault(name, content)
    header = found.get(b"IHDR", b"")
    is_grey = header[9:10] in (bytes([GREY]), bytes([GREY_AND_ALPHA]))
    return Png(b"".join(kept), _profile(colour), is_grey, _transparency(header, found.get(b"tRNS", b"")))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, the chunk and its content; side chunks with a wrong checksum are left out, as libpng does.

    What is no chunk any more comes as content alone.
    """
    position, left = len(SIGNATURE), FREE_READS // 3 + len(data) // BYTES_PER_READ
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">L4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        content = data[position + 8 : end - 4]
        is_side_chunk = bool(name[0] & 0x20)
        if not is_side_chunk or zlib.crc32(content, zlib.crc32(name)) == int.from_bytes(data[end - 4 : end]):
            yield name, data[position:end], content
        position, left = end, left - 1
        if left < 0:
            raise TooLaborious("it is cut into too many small pieces")
    if position < len(data):
        yield b"", b"", data[position:]


def _profile(chunks: dict[bytes, bytes]) -> bytes | None:
    """By the specification's order of precedence (PNG, third edition, 4.3); what cannot be read says nothing."""
    if (cicp := chunks.get(b"cICP")) and len(cicp) == 4 and (profile := profile_of_cicp(cicp[0], cicp[1])):
        return profile
    if (iccp := chunks.get(b"iCCP")) and (profile := _unpacked(iccp)):
        return profile
    gamma, primaries = int.from_bytes(chunks.get(b"gAMA", b"")), _primaries(chunks.get(b"cHRM", b""))
    if b"sRGB" in chunks or not gamma or (not primaries and abs(gamma / SRGB_GAMMA - 1) < TOLERANCE):
        return None
    return profile_of_gamma(UNIT / gamma, primaries or SRGB_PRIMARIES)


def _primaries(chunk: bytes) -> Primaries | None:
    if len(chunk) != 32:
        return None
    white, red, green, blue = struct.iter_unpack(">LL", chunk)
    return Primaries(*((x / UNIT, y / UNIT) for x, y in (red, green, blue, white)))


def _unpacked(iccp: bytes) -> bytes | None:
    """A name, a zero, the method 0, then the profile."""
    packed = iccp.partition(b"\0")[2][1:]
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed, MAX_PROFILE + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE else None


def _transparency(header: bytes, value: bytes) -> int | tuple[int, int, int] | None:
    if len(header) != 13:
        return None
    depth, kind = header[8], header[9]
    if kind == GREY and len(value) == 2:
        level = int.from_bytes(value)
        return level * 255 // (2**depth - 1) if depth < 8 else level
    if kind == RGB and len(value) == 6 and depth == 16:
        red, green, blue = (level >> 8 for (level,) in struct.iter_unpack(">H", value))
        return red, green, blue
    return None
