"""Encoded bytes → RGB pictures as the pipelines take them."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from qwen_edit.errors import BadRequest
from qwen_edit.pictures.bombs import CountedReads, TooLaborious, check_segments, check_work
from qwen_edit.request import MAX_ASPECT

# Formats whose decoders are worth exposing to strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
DEEP_VALUES = 2**20  # values of a deep grey picture that are scaled at a time


def decode(data: bytes, tensor: str, max_pixels: int) -> Image.Image:
    """The first frame as RGB, upright as its EXIF orientation says, transparency flattened on white."""
    picture = open_checked(data, tensor, max_pixels)
    return flattened(picture)


def open_checked(data: bytes, tensor: str, max_pixels: int) -> Image.Image:
    """Decoded and upright, in its own mode; pixels are counted before any is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_segments(data)
            picture = Image.open(CountedReads(data), formats=FORMATS)
            check_size(picture.size, tensor, max_pixels)
            check_work(picture, data, max_pixels)
            picture.load()
            return upright(picture)
    except BadRequest:
        raise
    except TooLaborious as bomb:
        raise BadRequest(tensor, f"{len(data)} bytes, not a picture that is decoded here: {bomb}") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        what = "not a known kind of picture" if isinstance(error, UnidentifiedImageError) else "a damaged picture"
        raise BadRequest(tensor, f"{len(data)} bytes, {what}: PNG, JPEG, WebP, GIF, BMP or TIFF is allowed") from None


def check_size(size: tuple[int, int], tensor: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BadRequest(tensor, f"{width}x{height} is {width * height} pixels: at most {max_pixels} are allowed")
    if min(size) < 1 or max(size) > MAX_ASPECT * min(size):
        raise BadRequest(tensor, f"{width}x{height}: aspect ratios from 1:{MAX_ASPECT} to {MAX_ASPECT}:1 are allowed")


def upright(picture: Image.Image) -> Image.Image:
    """As its EXIF orientation says; an EXIF block that cannot be read says nothing."""
    try:
        method = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        method = None
    return picture if method is None else picture.transpose(method)


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
    values = np.asarray(picture)
    scale = 255.0 / (65535.0 if values.max(initial=0) > 255 else 255.0)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, DEEP_VALUES // max(1, picture.width))
    for start in range(0, picture.height, rows):
        scaled = np.nan_to_num(values[start : start + rows] * scale)
        grey[start : start + rows] = scaled.clip(0, 255).round()
    return Image.fromarray(grey).convert("RGB")
