"""Colours told by numbers instead of a profile, as ICC profiles: primaries, white, and how light levels are."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_PROFILE = 2**22  # bytes; press profiles have three million

Point = tuple[float, float]  # x, y
Matrix = npt.NDArray[np.float64]  # (3, 3)


class Primaries(NamedTuple):
    red: Point
    green: Point
    blue: Point
    white: Point


class Curve(NamedTuple):
    """light = (a · level + b)^gamma from `d` on, c · level below: the ICC's parametric curve of type 3"""

    gamma: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
BT1886_CURVE = Curve(2.4)  # how a screen shows what the cameras' curve of BT.709 has recorded

# By the numbers of ITU-T H.273; curves for high dynamic range are missing, as they do not say what a screen's white is.
PRIMARIES = {
    1: SRGB_PRIMARIES,
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: Primaries((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    7: Primaries((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    9: Primaries((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65),
    11: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    12: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65),
}
CURVES = {
    1: BT1886_CURVE, 6: BT1886_CURVE, 14: BT1886_CURVE, 15: BT1886_CURVE,
    4: Curve(2.2), 5: Curve(2.8), 8: Curve(1.0), 13: SRGB_CURVE,
}  # fmt: skip

BRADFORD: Matrix = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50: npt.NDArray[np.float64] = np.array([0.9642, 1.0, 0.8249])  # the connection space's white, X, Y, Z


def profile_of_cicp(primaries: int, curve: int) -> bytes | None:
    if primaries not in PRIMARIES or curve not in CURVES:
        return None
    return _profile(PRIMARIES[primaries], CURVES[curve])


def profile_of_gamma(exponent: float, primaries: Primaries) -> bytes | None:
    """Light is the level to the power of `exponent`; None for numbers that no screen has."""
    if not 0.1 <= exponent <= 10:
        return None
    return _profile(primaries, Curve(exponent))


def _profile(primaries: Primaries, curve: Curve) -> bytes | None:
    try:
        colorants = _colorants(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    tags = {b"wtpt": _xyz(D50)}
    for channel, colorant in zip("rgb", colorants.T, strict=True):
        tags[f"{channel}XYZ".encode()] = _xyz(colorant)
        tags[f"{channel}TRC".encode()] = b"para" + struct.pack(">4xH2x", 3) + b"".join(map(_fixed, curve))
    start = 128 + 4 + 12 * len(tags)
    table, contents = struct.pack(">L", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">LL", start + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    size = struct.pack(">L", start + len(contents))
    head = size + bytes(4) + b"\4\x30\0\0" + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _numbers(D50)
    return head.ljust(128, b"\0") + table + contents


def _colorants(primaries: Primaries) -> Matrix:
    """X, Y, Z of each primary, in columns, seen under D50."""
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries])
    red_green_blue, white = xyz[:3].T, xyz[3]
    colorants = red_green_blue * np.linalg.solve(red_green_blue, white)
    cones = (BRADFORD @ D50) / (BRADFORD @ white)
    adapted: Matrix = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ colorants
    return adapted


def _xyz(values: npt.NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(values)


def _numbers(values: npt.NDArray[np.float64]) -> bytes:
    return b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """s15Fixed16"""
    return struct.pack(">l", round(float(value) * 65536))
