from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from shim.running.encode import encode, encode_base64, picture_object

PIXELS = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("compression", [0, 50, 100])
def test_the_picture_has_the_format_and_the_size(output_format: str, name: str, compression: int) -> None:
    picture = Image.open(io.BytesIO(encode(PIXELS, output_format, compression)))
    assert (picture.format, picture.size, picture.mode) == (name, (64, 48), "RGB")


def test_png_keeps_every_pixel() -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(PIXELS, "png", 0)))), PIXELS)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_the_compression_is_a_quality(output_format: str) -> None:
    assert len(encode(PIXELS, output_format, 20)) < len(encode(PIXELS, output_format, 90))


def test_a_picture_is_an_object_with_raw_base64() -> None:
    picture = encode_base64(PIXELS, None, True, "png", 100)
    item = json.loads(b"".join(picture_object(picture, {"seed": 7, "usage": {}})))
    assert item == {"b64_json": picture.decode(), "seed": 7, "usage": {}}
    assert base64.b64decode(picture) == encode(PIXELS, "png", 100)


def test_alpha_is_kept_or_the_picture_shown_on_white() -> None:
    alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    kept, shown = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_base64(PIXELS, alpha, shows, "png", 100)))))
        for shows in (True, False)
    )
    assert np.array_equal(kept, np.dstack([PIXELS, alpha]))
    share = alpha[..., None] / 255
    assert np.abs(shown - (PIXELS * share + 255 * (1 - share))).max() <= 1
