"""Colours as a file means them → sRGB, by LittleCMS."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from qwen_edit.pictures.profiles import MAX_PROFILE

# The mode of the pixels that a profile of a colour space speaks of.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
LEVELS = 9  # of each channel, at which it is tried whether a profile changes anything


class Colours:
    """What the levels of a picture stand for; with no profile, or one that cannot be used, what they are."""

    def __init__(self, profile: bytes | None, mode: str) -> None:
        self._profile = profile if profile and len(profile) <= MAX_PROFILE else None
        self._mode = mode

    @property
    def mode(self) -> str | None:
        """Of the pixels that `to_srgb` wants; None where there is nothing to do."""
        return self._transform.input_mode if self._transform else None

    def to_srgb(self, picture: Image.Image) -> Image.Image:
        """Pixels of `mode` → RGB"""
        if self._transform is None:
            return picture
        converted = ImageCms.applyTransform(picture, self._transform)
        assert converted is not None  # as it is not changed in place
        return converted

    @functools.cached_property
    def _transform(self) -> ImageCms.ImageCmsTransform | None:
        try:
            source = self._source()
            mode = MODES.get(source.profile.xcolor_space.strip(), "") if source else ""
            if source is None or mode not in _meant_by(self._mode):
                return None
            # Perceptual, without black point compensation: what browsers show.
            intent = ImageCms.Intent.PERCEPTUAL
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
            return None if _changes_nothing(transform) else transform
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return None

    def _source(self) -> ImageCms.ImageCmsProfile | None:
        if self._profile is not None:
            return ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")) if self._mode == "LAB" else None


def _meant_by(mode: str) -> tuple[str, ...]:
    """Modes of profiles that a picture of `mode` may have: one of another says nothing about it."""
    if mode in ("CMYK", "LAB"):
        return (mode,)
    if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"):
        return ("L", "RGB")
    return ("RGB",)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """As most profiles are sRGB's own."""
    if transform.input_mode != "RGB":
        return False
    levels = np.linspace(0, 255, LEVELS).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(LEVELS, -1, 3)
    found = ImageCms.applyTransform(Image.fromarray(cube), transform)
    return bool((np.abs(np.asarray(found).astype(int) - cube) <= 1).all())
