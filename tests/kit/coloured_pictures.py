"""Pictures of flat patches in every way that a file can say what its colours are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

PATCH = 16  # pixels a side
PROFILES = {path.stem: path.read_bytes() for path in (Path(__file__).parents[1] / "data" / "profiles").glob("*.icc")}
COLOURS = [
    [(220, 40, 40, 255), (30, 160, 60, 255), (40, 70, 200, 128), (128, 128, 128, 255)],
    [(250, 220, 30, 64), (10, 10, 12, 255), (200, 180, 240, 255), (0, 0, 0, 0)],
]  # of the patches, RGBA

Pixels = npt.NDArray[np.uint8]


def patches() -> Pixels:
    """(32, 64, 4)"""
    return np.array(COLOURS, np.uint8).repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def grey_profile(gamma: float = 1.8) -> bytes:
    curve = b"curv" + struct.pack(">4xLH2x", 1, round(gamma * 256))
    white = b"XYZ " + bytes(4) + struct.pack(">3l", 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    table = struct.pack(">L", 2) + b"kTRC" + struct.pack(">LL", start, len(curve))
    table += b"wtpt" + struct.pack(">LL", start + len(curve), len(white))
    size = struct.pack(">L", start + len(curve) + len(white))
    head = size + bytes(4) + b"\2\x10\0\0" + b"mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + curve + white


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(content, zlib.crc32(name)))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"of a test\0\0" + zlib.compress(profile))


def gama(exponent: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">L", round(100_000 / exponent)))


def chrm(*points: float) -> bytes:
    """White, red, green, blue: x and y of each."""
    return chunk(b"cHRM", struct.pack(">8L", *(round(100_000 * value) for value in points)))


P3_POINTS = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB = chunk(b"sRGB", b"\0")
SAYINGS: dict[str, bytes] = {
    "nothing": b"",
    "sRGB": SRGB,
    "gamma 2.2": gama(2.2),
    "gamma 2.1": gama(2.1),
    "gamma 2.4": gama(2.4),
    "gamma 2.2 and P3's primaries": gama(2.2) + chrm(*P3_POINTS),
    "gamma 1": gama(1.0),
    "gamma 1.8 and P3's primaries": gama(1.8) + chrm(*P3_POINTS),
    "primaries alone": chrm(*P3_POINTS),
    "sRGB over gamma 1": SRGB + gama(1.0),
    "P3": iccp(PROFILES["display-p3"]),
    "Adobe RGB": iccp(PROFILES["adobe-rgb"]),
    "ProPhoto over gamma 1": iccp(PROFILES["prophoto"]) + gama(1.0),
    "swapped channels": iccp(PROFILES["swapped-channels"]),
    "grey of 1.8": iccp(grey_profile()),
    "no profile": iccp(bytes(500)),
    "cut profile": iccp(PROFILES["display-p3"][:200]),
    "cICP of P3": chunk(b"cICP", bytes([12, 13, 0, 1])),
    "cICP of BT.709": chunk(b"cICP", bytes([1, 1, 0, 1])),
    "cICP of BT.2020, linear, over Adobe RGB": chunk(b"cICP", bytes([9, 8, 0, 1])) + iccp(PROFILES["adobe-rgb"]),
}


def packed_bits(levels: npt.NDArray[np.integer[Any]], depth: int) -> bytes:
    per_byte = 8 // depth
    shifts = np.arange(per_byte)[::-1] * depth
    rows = (levels.reshape(len(levels), -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def rows_of(samples: npt.NDArray[np.generic]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in samples)


@dataclass(frozen=True)
class PngKind:
    depth: int
    colour_type: int
    rows: bytes
    before: bytes = b""  # chunks in front of the pixels

    def file(self, saying: bytes = b"", behind: bytes = b"") -> bytes:
        header = struct.pack(">LLBBBBB", 4 * PATCH, 2 * PATCH, self.depth, self.colour_type, 0, 0, 0)
        pixels = chunk(b"IDAT", zlib.compress(self.rows))
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + saying + self.before
        return start + pixels + behind + chunk(b"IEND", b"")


def png_kinds() -> dict[str, PngKind]:
    rgba = patches()
    rgb, alpha, grey = rgba[..., :3], rgba[..., 3:], rgba[..., :1]
    deep = (rgba.astype(np.uint16) * 257).astype(">u2")
    dark = (rgba.astype(np.uint16) * 3).astype(">u2")
    index = (np.arange(8, dtype=np.uint8).reshape(2, 4)).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    palette = chunk(b"PLTE", bytes(value for row in COLOURS for colour in row for value in colour[:3]))
    alphas = chunk(b"tRNS", bytes(colour[3] for row in COLOURS for colour in row))
    return {
        "RGB": PngKind(8, 2, rows_of(rgb)),
        "RGBA": PngKind(8, 6, rows_of(rgba)),
        "grey": PngKind(8, 0, rows_of(grey)),
        "grey and alpha": PngKind(8, 4, rows_of(np.concatenate([grey, alpha], axis=2))),
        "palette": PngKind(8, 3, rows_of(index), palette),
        "palette and alpha": PngKind(8, 3, rows_of(index), palette + alphas),
        "palette of 4 bits": PngKind(4, 3, packed_bits(index, 4), palette),
        "RGB of 16 bits": PngKind(16, 2, rows_of(deep[..., :3])),
        "RGBA of 16 bits": PngKind(16, 6, rows_of(deep)),
        "grey of 16 bits": PngKind(16, 0, rows_of(deep[..., :1])),
        "dark grey of 16 bits": PngKind(16, 0, rows_of(dark[..., :1])),
        "grey and alpha of 16 bits": PngKind(16, 4, rows_of(deep[..., [0, 3]])),
        "grey of 1 bit": PngKind(1, 0, packed_bits(index % 2, 1)),
        "grey of 2 bits": PngKind(2, 0, packed_bits(index % 4, 2)),
        "grey of 4 bits": PngKind(4, 0, packed_bits(2 * index, 4)),
        "RGB and one colour transparent": PngKind(8, 2, rows_of(rgb), chunk(b"tRNS", struct.pack(">3H", 30, 160, 60))),
        "grey and one level transparent": PngKind(8, 0, rows_of(grey), chunk(b"tRNS", struct.pack(">H", 128))),
        "2 bits and one level transparent": PngKind(
            2, 0, packed_bits(index % 4, 2), chunk(b"tRNS", struct.pack(">H", 2))
        ),
        "1 bit and one level transparent": PngKind(
            1, 0, packed_bits(index % 2, 1), chunk(b"tRNS", struct.pack(">H", 0))
        ),
        "16 bits and one level transparent": PngKind(
            16, 0, rows_of(deep[..., :1]), chunk(b"tRNS", struct.pack(">H", 128 * 257))
        ),
        "RGB of 16 bits and one colour transparent": PngKind(
            16, 2, rows_of(deep[..., :3]), chunk(b"tRNS", struct.pack(">3H", 30 * 257, 160 * 257, 60 * 257))
        ),
    }


def pngs() -> Iterator[tuple[str, bytes]]:
    for kind, png in png_kinds().items():
        for saying, chunks in SAYINGS.items():
            yield f"png, {kind}, {saying}", png.file(chunks)
    plain = png_kinds()["RGB"]
    wrong = chunk(b"tIME", bytes(7))[:-1] + b"\xff"
    yield "png, a wrong checksum beside", plain.file(wrong)
    yield "png, a wrong checksum of gamma", plain.file(gama(1.0)[:-1] + b"\xff")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"png, turned {orientation}", plain.file(SAYINGS["P3"], chunk(b"eXIf", exif.tobytes()[6:]))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def others() -> Iterator[tuple[str, bytes]]:
    rgba = Image.fromarray(patches())
    rgb, grey = rgba.convert("RGB"), rgba.convert("RGB").convert("L")
    profiles: dict[str, bytes | None] = {
        "nothing": None,
        **PROFILES,
        "grey of 1.8": grey_profile(),
        "zeros": bytes(500),
    }
    press = profiles.pop("press")
    lossless: dict[str, dict[str, object]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    make: dict[str, Callable[[], Image.Image]] = {"RGB": rgb.copy, "grey": grey.copy, "RGBA": rgba.copy}
    for container, options in lossless.items():
        for mode, picture in make.items():
            if container == "JPEG" and mode == "RGBA":
                continue
            for name, profile in profiles.items():
                yield f"{container}, {mode}, {name}", saved(picture(), container, icc_profile=profile, **options)
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            turned = saved(rgb, container, exif=exif, icc_profile=profiles["display-p3"], **options)
            yield f"{container}, turned {orientation}", turned
    plain = saved(rgb, "JPEG", **lossless["JPEG"])
    yield (
        "JPEG, beside 300 segments",
        plain[:2] + 300 * (b"\xff\xe2\0\x2aof a maker's own".ljust(44, b"\0")) + plain[2:],
    )
    cmyk = rgb.convert("CMYK")
    yield "JPEG, CMYK, press", saved(cmyk, "JPEG", icc_profile=press, **lossless["JPEG"])
    yield "GIF", saved(rgb.quantize(8), "GIF")
    yield "GIF, transparent", saved(rgb.quantize(8), "GIF", transparency=1)
    yield "GIF, smaller than its canvas", _gif_on_a_canvas(rgb.quantize(8))
    yield "BMP", saved(rgb, "BMP")
    yield "BMP, grey", saved(grey, "BMP")
    yield "AVIF", saved(rgb, "AVIF", quality=100, subsampling="4:4:4")
    yield "AVIF, RGBA", saved(rgba, "AVIF", quality=100, subsampling="4:4:4")


def _gif_on_a_canvas(picture: Image.Image) -> bytes:
    data = bytearray(saved(picture, "GIF"))
    width, height = picture.size
    data[6:10] = struct.pack("<HH", 2 * width, 2 * height)
    place = data.index(b"\x2c\0\0\0\0" + struct.pack("<HH", width, height))
    data[place + 1 : place + 5] = struct.pack("<HH", PATCH, PATCH)
    return bytes(data)
