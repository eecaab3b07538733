"""What a file says of its colours, depths and frames; what browsers show of all that is in tests/browser."""

from __future__ import annotations

import io
import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageCms
from qwen_edit.errors import BadRequest
from qwen_edit.pictures.profiles import MAX_PROFILE

from tests.kit.coloured_pictures import PROFILES, chunk, png_kinds, saved
from tests.kit.decoding import decode, decode_mask

LIMIT = 10**6
SIDE = 48
RED = (202, 59, 51)  # which Display P3 has for sRGB's 220, 40, 40


def flat(colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


def shown(data: bytes, place: tuple[int, int] = (10, 10)) -> tuple[int, ...]:
    found = decode(data, LIMIT).getpixel(place)
    assert isinstance(found, tuple)
    return found


def near(found: tuple[int, ...], expected: tuple[int, ...], by: int = 2) -> bool:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= by


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_phones_wide_gamut_is_converted(kind: str) -> None:
    data = saved(flat(RED), kind, icc_profile=PROFILES["display-p3"], quality=100)
    assert near(shown(data), (220, 40, 40), by=3 if kind in ("JPEG", "AVIF") else 1)


def test_ink_is_converted_by_its_press_profile_and_without_one_by_its_complement() -> None:
    cyan = flat((255, 0, 0, 0), "CMYK")
    for kind in ("JPEG", "TIFF"):
        assert near(shown(saved(cyan, kind, icc_profile=PROFILES["press"])), (0, 154, 219))
        assert near(shown(saved(cyan, kind)), (0, 255, 255))


def test_lab_is_converted() -> None:
    lab = ImageCms.profileToProfile(
        flat((220, 40, 40)), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert near(shown(saved(lab, "TIFF")), (220, 40, 40))


@pytest.mark.parametrize(
    "profile",
    [
        b"", bytes(128), b"\xff" * 5000, PROFILES["press"], PROFILES["display-p3"][:-200],
        PROFILES["display-p3"] + bytes(MAX_PROFILE),
    ],
    ids=["empty", "zeros", "ones", "of another kind of pixels", "cut", "of four megabytes"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_that_cannot_be_used_says_nothing(kind: str, profile: bytes) -> None:
    data = saved(flat(RED), kind, icc_profile=profile, quality=100, lossless=True)
    assert near(shown(data), RED, by=3)


def test_a_profile_of_srgb_changes_no_level() -> None:
    picture = Image.effect_mandelbrot((SIDE, SIDE), (-3, -2.5, 2, 2.5), 100).convert("RGB")
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(saved(picture, "PNG", icc_profile=own), LIMIT).tobytes() == picture.tobytes()


def test_a_mask_is_its_levels_whatever_its_profile() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None], SIDE, axis=0)
    for profile in (None, PROFILES["linear"], PROFILES["swapped-channels"]):
        mask = decode_mask(saved(Image.fromarray(levels).convert("RGB"), "PNG", icc_profile=profile), LIMIT)
        assert (np.asarray(mask) == np.where(levels >= 128, 255, 0)).all()


def test_an_opaque_drawing_in_black_and_white_is_a_mask_by_its_white() -> None:
    drawing = flat((0, 0, 0, 255), "RGBA")
    drawing.paste((255, 255, 255, 255), (0, 0, 24, SIDE))
    mask = np.asarray(decode_mask(saved(drawing, "PNG"), LIMIT))
    assert (mask[:, :24] == 255).all()
    assert (mask[:, 24:] == 0).all()
    photograph = flat((250, 240, 200, 255), "RGBA")
    with pytest.raises(BadRequest, match="opaque everywhere"):
        decode_mask(saved(photograph, "PNG"), LIMIT)


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_a_mask_of_truth_values_is_one(mode: str) -> None:
    truth = np.zeros((SIDE, SIDE), np.uint8)
    truth[:, :10] = 1
    picture = Image.fromarray(truth * 255 if mode == "1" else truth).convert(mode)
    assert (np.asarray(decode_mask(saved(picture, "PNG"), LIMIT)) == truth * 255).all()


Order = Literal["<", ">"]
TYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32"]


@pytest.mark.parametrize("inverted", [False, True], ids=["black is zero", "white is zero"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TYPES)
def test_a_tiffs_levels_are_shares_of_what_their_type_holds(name: str, order: Order, inverted: bool) -> None:
    """Also of a dark picture, which is not made brighter."""
    kind = np.dtype(name)
    most = 1.0 if kind.kind == "f" else float(np.iinfo(kind).max)
    for share in (0.0, 0.003, 0.02, 0.37, 1.0):
        level = np.full((SIDE, SIDE), share * most).astype(kind)
        data = tiff(level, order, "miniswhite" if inverted else "minisblack")
        expected = round(255 * (1 - share if inverted else share))
        assert near(shown(data), (expected,) * 3, by=1), (share, expected)


def tiff(levels: npt.NDArray[np.generic], order: Order, photometric: str) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, levels, byteorder=order, photometric=photometric)
    return file.getvalue()


def test_what_is_no_number_is_black_or_white_and_no_error() -> None:
    levels = np.full((SIDE, SIDE), 0.5, np.float32)
    levels[0, :4] = np.nan, np.inf, -np.inf, 7
    found = np.asarray(decode(tiff(levels, "<", "minisblack"), LIMIT))[0, :4, 0]
    assert found.tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_jpeg_of_which_a_few_bytes_are_missing_is_shown(progressive: bool) -> None:
    photograph = Image.radial_gradient("L").convert("RGB")
    data = saved(photograph, "JPEG", quality=95, progressive=progressive)
    whole = np.asarray(decode(data, LIMIT)).astype(int)
    for missing in (1, 2, 3, 20):
        found = np.asarray(decode(data[:-missing], LIMIT)).astype(int)
        assert np.abs(found - whole)[:224].mean() < 1
    with pytest.raises(BadRequest, match="damaged picture"):
        decode(data[: len(data) // 3], LIMIT)


def test_a_png_of_which_only_what_stands_beside_its_pixels_is_damaged_is_shown() -> None:
    plain = png_kinds()["RGB"]
    whole = decode(plain.file(), LIMIT).tobytes()
    text = b"workflow\0\0" + zlib.compress(bytes(3_000_000))
    international = b"workflow\0\1\0\0\0" + text[10:]
    for beside in (chunk(b"zTXt", text), chunk(b"iTXt", international), chunk(b"tIME", bytes(7))[:-1] + b"\1"):
        assert decode(plain.file(beside), LIMIT).tobytes() == whole
        assert decode(plain.file(behind=beside), LIMIT).tobytes() == whole
    assert decode(plain.file()[:-12], LIMIT).tobytes() == whole, "no end"


def test_a_png_that_is_cut_off_is_damage() -> None:
    data = png_kinds()["RGB"].file()
    for end in range(8, data.index(b"IDAT") + 40, 7):
        with pytest.raises(BadRequest):
            decode(data[:end], LIMIT)
