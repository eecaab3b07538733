"""Training pictures: free photographs that scikit-image and scikit-learn ship, and procedural ones.

The photographs in tests/data are never among them.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.float32]  # (height, width, 3) in 0..1

PHOTOGRAPHS = (
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/motorcycle_left.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/retina.jpg",
    "skimage/data/ihc.png",
    "skimage/data/camera.png",
    "skimage/data/coins.png",
    "skimage/data/brick.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/moon.png",
    "skimage/data/page.png",
    "skimage/data/clock_motion.png",
)
COLOUR_PHOTOGRAPHS = 6  # the first ones
# Of colour photographs, of grey ones, of procedural pictures.
KINDS = (0.55, 0.2, 0.25)
SMALLEST_CROP = 64  # pixels of the photograph


class PictureSource:
    """An endless supply of augmented training pictures; equal seeds give equal pictures."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def batch(self, count: int, width: int, height: int) -> npt.NDArray[np.float32]:
        """(count, height, width, 3) in 0..1"""
        return np.stack([self.picture(width, height) for _ in range(count)])

    def picture(self, width: int, height: int) -> Picture:
        kind = self._random.choice(3, p=KINDS)
        if kind == 2:
            return procedural(self._random, width, height)
        photographs = _photographs()
        colour, grey = photographs[:COLOUR_PHOTOGRAPHS], photographs[COLOUR_PHOTOGRAPHS:]
        chosen = (colour, grey)[kind]
        photograph = chosen[self._random.integers(len(chosen))]
        picture = _crop(self._random, photograph, width, height)
        if kind == 1 and self._random.random() < 0.7:
            picture = _coloured(self._random, picture)
        return _jittered(self._random, picture)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.open(_installed(name)).convert("RGB") for name in PHOTOGRAPHS)


def _installed(name: str) -> Path:
    """Where a package's file lies; the package is not imported."""
    package, _, path = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is needed for its photographs: pip install -e '.[demo]'")
    return Path(spec.origin).parent / path


def _crop(random: np.random.Generator, photograph: Image.Image, width: int, height: int) -> Picture:
    """A random part at a random scale, mirrored or turned by chance."""
    largest = min(photograph.width / width, photograph.height / height)
    smallest = min(largest, max(SMALLEST_CROP / max(width, height), 0.5))
    scale = smallest * (largest / smallest) ** random.random()
    across, down = scale * width, scale * height
    left, top = random.uniform(0, photograph.width - across), random.uniform(0, photograph.height - down)
    resized = photograph.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))
    if random.random() < 0.5:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.25:
        resized = resized.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(resized, dtype=np.float32) / 255


def _coloured(random: np.random.Generator, picture: Picture) -> Picture:
    """A grey picture on a scale between three random colours."""
    level = picture.mean(axis=2, keepdims=True)
    least = np.array([[0], [0.2], [0.4]], dtype=np.float32)
    dark, middle, light = random.random((3, 3), dtype=np.float32) * 0.6 + least
    lower = dark + (middle - dark) * np.minimum(level * 2, 1)
    coloured: Picture = lower + (light - middle) * np.maximum(level * 2 - 1, 0)
    return coloured


def _jittered(random: np.random.Generator, picture: Picture) -> Picture:
    """Colours exchanged, scaled, shifted and bent by chance."""
    if random.random() < 0.5:
        picture = picture[:, :, random.permutation(3)]
    if random.random() < 0.1:
        picture = 1 - picture
    if random.random() < 0.6:
        gain = random.uniform(0.6, 1.5, 3) if random.random() < 0.5 else random.uniform(0.6, 1.5)
        picture = (picture - 0.5) * np.float32(gain) + 0.5 + np.float32(random.uniform(-0.2, 0.2))
    if random.random() < 0.5:
        grey = picture.mean(axis=2, keepdims=True)
        picture = grey + (picture - grey) * np.float32(random.uniform(0.2, 2.0))
    picture = np.clip(picture, 0, 1)
    if random.random() < 0.4:
        picture = picture ** np.float32(random.uniform(0.5, 2.0))
    return picture.astype(np.float32)


def procedural(random: np.random.Generator, width: int, height: int) -> Picture:
    """Shapes of random colours with hard or soft edges and some texture on a gradient."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[0:height, 0:width])
    picture = _gradient(random, x / width, y / height)
    for _ in range(random.integers(0, 9)):
        inside: Picture = _shape(random, x, y)[:, :, None]
        gradient = random.random() >= 0.6
        fill: Picture = _gradient(random, x / width, y / height) if gradient else random.random(3, dtype=np.float32)
        picture = picture * (1 - inside) + fill * inside
    if random.random() < 0.5:
        picture = picture + _texture(random, width, height) * np.float32(random.uniform(0.05, 0.5))
    return np.clip(picture, 0, 1).astype(np.float32)


def _gradient(random: np.random.Generator, x: Picture, y: Picture) -> Picture:
    corners = random.random((2, 2, 3), dtype=np.float32)
    x, y = x[:, :, None], y[:, :, None]
    above = corners[0, 0] * (1 - x) + corners[0, 1] * x
    below = corners[1, 0] * (1 - x) + corners[1, 1] * x
    gradient: Picture = above * (1 - y) + below * y
    return gradient


def _shape(random: np.random.Generator, x: Picture, y: Picture) -> Picture:
    """How far each pixel lies in a random ellipse, box or stripe pattern, 0..1, (height, width)."""
    height, width = x.shape
    angle = random.uniform(0, np.pi)
    centre_x, centre_y = random.uniform(0, width), random.uniform(0, height)
    across = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    along = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
    a, b = random.uniform(2, max(width, height) / 2, 2)
    kind = random.integers(3)
    if kind == 0:
        distance: npt.NDArray[np.floating[Any]] = (1 - np.hypot(across / a, along / b)) * min(a, b)
    elif kind == 1:
        distance = np.minimum(a - np.abs(across), b - np.abs(along))
    else:
        period = random.uniform(3, 24)
        distance = np.minimum(np.sin(across * 2 * np.pi / period) * period / 6, a - np.abs(along))
    softness = random.choice([0.5, 1.0, 4.0])
    shape: Picture = np.clip(distance / softness + 0.5, 0, 1).astype(np.float32)
    return shape


def _texture(random: np.random.Generator, width: int, height: int) -> Picture:
    """Noise of a random coarseness, about -1..1, (height, width, 3 or 1)."""
    coarse = int(random.choice([1, 2, 4, 8, 16]))
    channels = int(random.choice([1, 3]))
    noise = random.standard_normal((max(2, height // coarse), max(2, width // coarse), channels)).astype(np.float32)
    layers = [
        Image.fromarray(noise[:, :, channel]).resize((width, height), Image.Resampling.BICUBIC)
        for channel in range(channels)
    ]
    texture: Picture = np.stack([np.asarray(layer) for layer in layers], axis=2) * np.float32(0.5)
    return texture
