"""Encoded bytes → RGB pictures as the pipelines take them."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from qwen_edit.errors import BadRequest
from qwen_edit.request import MAX_ASPECT

# Formats whose decoders are worth exposing to strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode(data: bytes, tensor: str, max_pixels: int) -> Image.Image:
    """The first frame as RGB, upright as its EXIF orientation says, transparency flattened on white."""
    picture = open_checked(data, tensor, max_pixels)
    return flattened(picture)


def open_checked(data: bytes, tensor: str, max_pixels: int) -> Image.Image:
    """Decoded and upright, in its own mode; pixels are counted before any is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(picture.size, tensor, max_pixels)
            picture.load()
            return ImageOps.exif_transpose(picture)
    except BadRequest:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        what = "not a known kind of picture" if isinstance(error, UnidentifiedImageError) else "a damaged picture"
        raise BadRequest(tensor, f"{len(data)} bytes, {what}: PNG, JPEG, WebP, GIF, BMP or TIFF is allowed") from None


def check_size(size: tuple[int, int], tensor: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadRequest(tensor, f"{width}x{height} is {width * height} pixels: at most {max_pixels} are allowed")
    if min(size) < 1 or max(size) > MAX_ASPECT * min(size):
        raise BadRequest(tensor, f"{width}x{height}: aspect ratios from 1:{MAX_ASPECT} to {MAX_ASPECT}:1 are allowed")


def flattened(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep_grey(picture)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")


def _from_deep_grey(picture: Image.Image) -> Image.Image:
    """16-bit and 32-bit grey: Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(picture, dtype=np.float64)
    top = 65535.0 if values.max(initial=0) > 255 else 255.0
    grey = np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")
