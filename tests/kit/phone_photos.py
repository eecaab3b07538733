"""Photographs as phones take them."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from tests.kit.coloured_pictures import PROFILES

UPRIGHT = (3024, 4032)  # pixels: 12 megapixels
ORIENTATION, TURN_RIGHT = 0x0112, 6  # a tag of EXIF, and the value of a phone that was held upright


def upright_photo(photograph: bytes) -> Image.Image:
    """The middle of the photograph as it is meant to be seen, in sRGB."""
    with Image.open(io.BytesIO(photograph)) as opened:
        picture = opened.convert("RGB")
    width = min(picture.width, picture.height * UPRIGHT[0] // UPRIGHT[1])
    left = (picture.width - width) // 2
    return picture.crop((left, 0, left + width, picture.height)).resize(UPRIGHT, Image.Resampling.BICUBIC)


def in_p3(picture: Image.Image) -> Image.Image:
    """The same colours in the numbers of Display P3."""
    to = ImageCms.ImageCmsProfile(io.BytesIO(PROFILES["display-p3"]))
    converted = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), to)
    assert converted is not None
    return converted


def phone_photo(upright: Image.Image) -> bytes:
    """A JPEG in Display P3 that lies on its side, as the sensor does, with the word to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    file = io.BytesIO()
    lying = in_p3(upright).transpose(Image.Transpose.ROTATE_90)
    lying.save(file, "JPEG", quality=90, exif=exif, icc_profile=PROFILES["display-p3"])
    return file.getvalue()
