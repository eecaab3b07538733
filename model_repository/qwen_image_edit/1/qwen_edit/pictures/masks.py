"""Masks: which pixels an edit may change, in pixels and in latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from qwen_edit.errors import BadRequest
from qwen_edit.families.family import Size
from qwen_edit.pictures.decoders import Decoders
from qwen_edit.pictures.regions import is_empty

ASPECT_TOLERANCE = 0.01  # of the mask against the first reference
OUTPUT_ASPECT_TOLERANCE = 0.02  # of the output size asked for against the mask


@dataclass(frozen=True)
class Mask:
    """The edited region, beside the source's own pixels."""

    denoised: Image.Image  # "L", 255 where the edit may change latents; at the size that is rendered
    region: Image.Image  # "L", 255 where it may change pixels; at the answer's size
    source: Image.Image  # "RGB" or "RGBA", the first reference at the answer's size

    @property
    def nbytes(self) -> int:
        pictures = self.denoised, self.region, self.source
        return sum(picture.width * picture.height * len(picture.getbands()) for picture in pictures)

    def latent_region(self, latent_pixels: int, *, whole: bool) -> torch.Tensor:
        """(1, 1, h, w) float32, 1 where latents are edited; a token can be partly so.

        `whole`: where any of their pixels is, so that no stroke is too thin.
        """
        width, height = self.denoised.size
        values = torch.from_numpy(np.asarray(self.denoised, dtype=np.float32) / 255.0)[None, None]
        if whole:
            return torch.nn.functional.max_pool2d(values, latent_pixels)
        rows, columns = height // latent_pixels, width // latent_pixels
        return torch.nn.functional.interpolate(values, size=(rows, columns))  # nearest, as diffusers does

    def composite(self, edited: npt.NDArray[np.uint8], latent_pixels: int) -> npt.NDArray[np.uint8]:
        """The source's own pixels outside the region: the VAE's reconstruction is not the original.

        The seam is blended over the `latent_pixels` of one latent, half of them on either side.
        """
        enlarged = self.region.width / self.denoised.width
        soft = self.region.filter(ImageFilter.BoxBlur(enlarged * latent_pixels / 2))
        return np.asarray(Image.composite(Image.fromarray(edited), self.source, soft))


def fit(
    decoders: Decoders, data: bytes, source: Image.Image, source_size: Size, output: Size, *, size_asked: bool
) -> Mask:
    """The encoded mask of `source`, which has the answer's size; raises BadRequest where shapes do not agree.

    `source_size` is the picture's own, and `output` the size at which the edit is rendered.
    """

    def wanted(size: Size) -> list[Size]:
        if _aspects_differ(size, source_size, ASPECT_TOLERANCE):
            raise BadRequest(
                "mask",
                f"{_shown(size)}: the aspect ratio of the first reference image, {_shown(source_size)}, is needed",
            )
        if size_asked and _aspects_differ(source.size, size, OUTPUT_ASPECT_TOLERANCE):
            raise BadRequest(
                "size", f"{_shown(source.size)}: with a mask, the aspect ratio of the mask, {_shown(size)}, is needed"
            )
        return [output, source.size]

    _, (denoised, region) = decoders.mask(data, wanted)
    for each in (denoised, region):
        if is_empty(each):
            raise BadRequest("mask", f"its edited region vanishes at {_shown(each.size)}: make it larger")
    return Mask(denoised, region, source)


def _aspects_differ(a: Size, b: Size, tolerance: float) -> bool:
    return abs(a[0] * b[1] - b[0] * a[1]) > tolerance * b[0] * a[1]


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
