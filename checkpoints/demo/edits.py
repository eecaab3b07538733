"""Edits of colour and light: what each does to a picture, and how people ask for it.

The demo checkpoint learns those of course.EDITS_SEEN; the words of all are in its vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from checkpoints.demo.pictures import Picture

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
CELL = 8  # pixels a side of a pixelated picture's blocks: those of a transformer token


@dataclass(frozen=True)
class Edit:
    apply: Callable[[Picture], Picture]
    looks: tuple[str, ...]  # that follow "make it"
    orders: tuple[str, ...]  # that stand alone


def luminance(picture: Picture) -> Picture:
    """(height, width, 3) → (height, width, 1)"""
    grey: Picture = (picture @ LUMINANCE)[:, :, None]
    return grey


def grayscale(picture: Picture) -> Picture:
    return np.repeat(luminance(picture), 3, axis=2)


def inverted(picture: Picture) -> Picture:
    return 1 - picture


def tint(*colour: float) -> Callable[[Picture], Picture]:
    target = np.array(colour, dtype=np.float32)
    return lambda picture: 0.3 * picture + 0.7 * target * (0.25 + 0.75 * luminance(picture))


def brighter(picture: Picture) -> Picture:
    return 1 - 0.55 * (1 - picture)


def darker(picture: Picture) -> Picture:
    return 0.5 * picture


def sepia(picture: Picture) -> Picture:
    brown = luminance(picture) * np.array([1.12, 0.9, 0.66], dtype=np.float32)
    return np.minimum(brown + np.array([0.03, 0.02, 0.0], dtype=np.float32), 1)


def contrasted(picture: Picture) -> Picture:
    return np.clip((picture - 0.5) * np.float32(1.8) + 0.5, 0, 1)


def vivid(picture: Picture) -> Picture:
    grey = luminance(picture)
    return np.clip(grey + (picture - grey) * 2, 0, 1)


def pixelated(picture: Picture) -> Picture:
    """Sides must be multiples of CELL."""
    height, width, _ = picture.shape
    blocks: Picture = picture.reshape(height // CELL, CELL, width // CELL, CELL, 3).mean(axis=(1, 3))
    return blocks.repeat(CELL, axis=0).repeat(CELL, axis=1)


def _tinted(*names: str) -> tuple[str, ...]:
    return tuple(
        order.format(name)
        for name in names
        for order in ("add a {} tint", "give it a {} tint", "tint it {}", "color it {}", "paint it {}", "{} light",
                      "put a {} filter on it", "a {} filter", "{} tones", "tint the photo {}")
    )  # fmt: skip


EDITS: dict[str, Edit] = {
    "unchanged": Edit(
        lambda picture: picture,
        ("unchanged", "the same", "identical", "as it is"),
        ("keep it as it is", "leave it unchanged", "change nothing", "do nothing", "keep the picture unchanged",
         "leave the image as it is", "copy it", "copy the picture", "no changes", "do not change anything",
         "keep everything the same", "return the same picture", "reproduce the photo"),
    ),
    "grayscale": Edit(
        grayscale,
        ("grayscale", "greyscale", "black and white", "monochrome", "gray", "grey", "colorless",
         "a black and white photo", "a grayscale image", "black-and-white", "desaturated"),
        ("remove the color", "remove all colors", "desaturate it", "desaturate the image", "take the colors away",
         "convert to grayscale", "convert to black and white", "no color", "without color", "shades of gray",
         "turn it into a black and white picture", "drain the color"),
    ),
    "inverted": Edit(
        inverted,
        ("inverted", "negative", "a negative", "a photo negative", "a film negative", "inverse"),
        ("invert it", "invert the colors", "invert the image", "turn it into a negative", "show the negative",
         "swap light and dark", "reverse the colors", "turn the photo into a negative", "flip the colors",
         "the opposite colors", "convert to a negative"),
    ),
    "red": Edit(tint(1.0, 0.08, 0.08), ("red", "reddish", "more red", "all red"), _tinted("red")),
    "green": Edit(tint(0.08, 0.95, 0.12), ("green", "greenish", "more green", "all green"), _tinted("green")),
    "blue": Edit(tint(0.1, 0.2, 1.0), ("blue", "bluish", "more blue", "all blue"), _tinted("blue")),
    "yellow": Edit(
        tint(1.0, 0.9, 0.08), ("yellow", "yellowish", "more yellow", "golden", "gold"), _tinted("yellow", "golden")
    ),
    "purple": Edit(
        tint(0.7, 0.1, 0.95), ("purple", "violet", "more purple", "magenta"), _tinted("purple", "violet")
    ),
    "brighter": Edit(
        brighter,
        ("brighter", "lighter", "bright", "light", "much brighter", "well lit"),
        ("brighten it", "brighten the image", "lighten it", "increase the brightness", "more light", "add light",
         "turn up the brightness", "raise the exposure", "lighten the picture"),
    ),
    "darker": Edit(
        darker,
        ("darker", "dark", "dim", "dimmer", "much darker"),
        ("darken it", "darken the image", "reduce the brightness", "lower the brightness", "less light",
         "dim the light", "turn down the brightness", "lower the exposure", "darken the picture"),
    ),
    "sepia": Edit(
        sepia,
        ("sepia", "vintage", "old", "an old photo", "brownish", "antique", "a sepia photo"),
        ("convert to sepia", "apply a sepia filter", "sepia tone", "give it a sepia tone", "make it look old",
         "make it look vintage", "age the photo", "like an old photograph", "an old sepia photograph"),
    ),
    "contrast": Edit(
        contrasted,
        ("high contrast", "more contrasty", "contrasted", "punchier"),
        ("increase the contrast", "more contrast", "add contrast", "boost the contrast", "raise the contrast",
         "stronger contrast", "turn up the contrast"),
    ),
    "vivid": Edit(
        vivid,
        ("more colorful", "colorful", "vivid", "more vivid", "saturated", "more saturated", "vibrant"),
        ("enhance colors", "enhance the colors", "boost the colors", "increase the saturation", "saturate it",
         "stronger colors", "boost the saturation", "more color", "more vivid colors"),
    ),
    "pixelated": Edit(
        pixelated,
        ("pixelated", "pixel art", "a mosaic", "blocky", "8-bit"),
        ("pixelate it", "pixelate the image", "turn it into pixel art", "turn it into a mosaic", "a mosaic effect",
         "convert to pixel art", "big pixels"),
    ),
}  # fmt: skip
