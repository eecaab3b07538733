"""Mask files → regions: "L", 255 where the picture is edited."""

from __future__ import annotations

from PIL import Image, ImageChops

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.pictures.images import flattened, has_transparency

THRESHOLD = 128


def region(picture: Image.Image) -> Image.Image:
    """Where it is transparent or, where it has no transparency, white; many tools save a drawing with alpha 255."""
    has_alpha = has_transparency(picture)
    alpha = picture.convert("RGBA").getchannel("A") if has_alpha else None
    if alpha and (alpha.getextrema() != (255, 255) or not _is_grey(picture)):
        found = alpha.point(lambda value: 255 if value < THRESHOLD else 0)
    else:
        grey = flattened(picture).convert("L")
        white = 1 if grey.getextrema() == (0, 1) else THRESHOLD  # a mask of truth values
        found = grey.point(lambda value: 255 if value >= white else 0)
    if is_empty(found):
        how = (
            "its alpha channel is opaque everywhere: make the region to edit transparent"
            if has_alpha
            else "it has no white pixel: paint the region to edit white, or make it transparent in a picture with alpha"
        )
        raise BadRequest("mask", how)
    return found


def _is_grey(picture: Image.Image) -> bool:
    red, green, blue = picture.convert("RGB").split()
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


def resized(whole: Image.Image, size: Size) -> Image.Image:
    return whole.resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value >= THRESHOLD else 0)


def is_empty(region: Image.Image) -> bool:
    return region.getextrema()[1] == 0
