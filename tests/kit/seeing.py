"""What a picture shows, in numbers. Pictures are (height, width, 3) uint8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

Picture = npt.NDArray[np.uint8]


def luminance(picture: Picture) -> npt.NDArray[np.float64]:
    """(height, width) in 0..255"""
    grey: npt.NDArray[np.float64] = picture @ np.array([0.299, 0.587, 0.114])
    return grey


def saturation(picture: Picture) -> float:
    """Mean distance of a pixel's largest channel from its smallest, in grey levels."""
    return float(np.ptp(picture.astype(int), axis=2).mean())


def shares(picture: Picture) -> npt.NDArray[np.float64]:
    """Of red, green and blue in all light."""
    sums: npt.NDArray[np.float64] = picture.sum(axis=(0, 1)) / picture.sum()
    return sums


def structure(a: Picture, b: Picture) -> float:
    """SSIM of the luminances: 1 for equal pictures, about 0 for unrelated ones."""
    return float(structural_similarity(luminance(a), luminance(b), data_range=255))


def likeness(a: Picture, b: Picture) -> float:
    """Correlation of the luminances: 1 for the same light and dark, -1 for a negative."""
    return float(np.corrcoef(luminance(a).ravel(), luminance(b).ravel())[0, 1])


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio of b as a copy of a, in dB; infinite for an exact one."""
    error = np.square(a.astype(float) - b).mean()
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")
