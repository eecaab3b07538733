"""Encoded pictures of every kind → RGB, or an error in words."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from qwen_edit.errors import BadRequest

from tests.kit.decoding import decode
from tests.kit.encoding import encoded

LIMIT = 10**6


def gradient(mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((60, 40)).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_listed_format_is_decoded(kind: str) -> None:
    picture = decode(encoded(gradient(), kind), LIMIT)
    assert (picture.mode, picture.size) == ("RGB", (60, 40))
    close = np.abs(np.asarray(picture).astype(int) - np.asarray(gradient())).mean()
    assert close < 12


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("LA", "PNG")])
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    assert decode(encoded(gradient(mode), kind), LIMIT).mode == "RGB"


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64))
    values = np.asarray(decode(encoded(deep), LIMIT))
    assert abs(values.mean() - 127.5) < 2


def test_transparency_is_flattened_on_white() -> None:
    picture = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert decode(encoded(picture), LIMIT).getpixel((5, 5)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(gradient(), "JPEG", exif=exif), LIMIT).size == (40, 60)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data, LIMIT))[3, 3, 0] > 250


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a picture", "not a known kind of picture"),
        (encoded(gradient())[:200], "damaged picture"),
        (b"GIF89a" + b"\xff" * 50, "picture"),
        (encoded(Image.new("L", (2000, 600))), "2000x600 is 1200000 pixels: at most 1000000"),
        (encoded(Image.new("L", (900, 100))), "900x100: aspect ratios from 1:8 to 8:1"),
        (b"%PDF-1.4 %\xe2", "not a known kind of picture"),
    ],
    ids=["text", "truncated", "broken gif", "too large", "too long", "pdf"],
)
def test_what_cannot_be_edited_is_an_error_that_says_why(data: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        decode(data, LIMIT)


def test_pixels_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("L", (1001, 1000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadRequest, match="pixels"):
        decode(bomb, LIMIT)
