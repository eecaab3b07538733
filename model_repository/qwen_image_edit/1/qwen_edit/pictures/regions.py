"""Mask files → regions: "L", 255 where the picture is edited."""

from __future__ import annotations

from PIL import Image

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.pictures.images import flattened

THRESHOLD = 128


def region(picture: Image.Image) -> Image.Image:
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    if has_alpha:
        alpha = picture.convert("RGBA").getchannel("A")
        found = alpha.point(lambda value: 255 if value < THRESHOLD else 0)
    else:
        found = flattened(picture).convert("L").point(lambda value: 255 if value >= THRESHOLD else 0)
    if is_empty(found):
        how = (
            "its alpha channel is opaque everywhere: make the region to edit transparent"
            if has_alpha
            else "it has no white pixel: paint the region to edit white, or make it transparent in a picture with alpha"
        )
        raise BadRequest("mask", how)
    return found


def resized(whole: Image.Image, size: Size) -> Image.Image:
    return whole.resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value >= THRESHOLD else 0)


def is_empty(region: Image.Image) -> bool:
    return region.getextrema()[1] == 0
