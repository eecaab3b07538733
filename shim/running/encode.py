"""Pixels → picture files → JSON. All of it blocks: call it in a thread."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = npt.NDArray[np.uint8]


def encode(image: Levels, output_format: str, compression: int) -> bytes:
    """`compression` is OpenAI's: the quality, 0..100, of the formats that lose some."""
    options: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 1},  # a third of the default's time for a tenth more bytes
        "jpeg": {"quality": compression, "subsampling": "4:4:4"},
        "webp": {"quality": compression},
    }
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, output_format, **options[output_format])
    return buffer.getvalue()


def encode_base64(
    image: Levels, alpha: Levels | None, shows_alpha: bool, output_format: str, compression: int
) -> bytes:
    """`image` (H, W, 3) with `alpha` (H, W), or on white where it is not to be seen; None: it is opaque."""
    if alpha is not None:
        image = np.dstack([image, alpha]) if shows_alpha else on_white(image, alpha)
    return base64.b64encode(encode(image, output_format, compression))


def on_white(image: Levels, alpha: Levels) -> Levels:
    height, width = alpha.shape
    white = Image.new("RGB", (width, height), "white")
    white.paste(Image.fromarray(image), mask=Image.fromarray(alpha))
    return np.asarray(white)


def picture_object(picture: bytes, fields: Mapping[str, Any]) -> list[bytes]:
    """A JSON object of `fields`, at least one, and the picture in base64, as pieces: megabytes are never joined."""
    return [json.dumps(fields).removesuffix("}").encode(), b', "b64_json": "', picture, b'"}']
