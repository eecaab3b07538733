"""Whether a picture shows what another shows in the same place."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Levels = npt.NDArray[np.float64]  # (height, width), grey


def drawing(size: tuple[int, int]) -> Image.Image:
    """Squares of many colours and places, so that a shift of it is like nothing but that shift."""
    draws = random.Random(3)
    picture = Image.new("RGB", size, "grey")
    pen = ImageDraw.Draw(picture)
    unit = min(size)
    for _ in range(60):
        x, y, side = draws.random() * size[0], draws.random() * size[1], unit * draws.uniform(0.05, 0.15)
        pen.rectangle((x, y, x + side, y + side), fill=tuple(draws.randrange(256) for _ in range(3)))
    return picture


def shift(picture: Levels, other: Levels) -> tuple[float, float]:
    """(rows, columns) by which the other is shifted: phase correlation, its peak interpolated."""
    window = np.outer(np.hanning(picture.shape[0]), np.hanning(picture.shape[1]))
    spectrum = np.fft.fft2((picture - picture.mean()) * window) * np.conj(np.fft.fft2((other - other.mean()) * window))
    correlation = np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-3 * np.abs(spectrum).max())).real
    peak = np.unravel_index(correlation.argmax(), correlation.shape)

    def exact(axis: int) -> float:
        before, at, after = (
            correlation[tuple((p + step * (axis == n)) % correlation.shape[n] for n, p in enumerate(peak))]
            for step in (-1, 0, 1)
        )
        place = float(peak[axis]) + float((after - before) / (2 * (2 * at - before - after)))
        return place - correlation.shape[axis] * (place > correlation.shape[axis] / 2)

    return exact(0), exact(1)


def grey(picture: Image.Image) -> Levels:
    return np.asarray(picture.convert("L"), dtype=np.float64)
