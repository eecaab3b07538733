"""Latents → pictures, one at a time: a batch of them is not bit-equal to each alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from qwen_edit.families.family import Size
from qwen_edit.pipeline import Pipeline

Picture = npt.NDArray[np.uint8]  # (height, width, 3)


def picture(pipeline: Pipeline, latents: torch.Tensor, size: Size) -> Picture:
    """Of packed latents (tokens, channels) of a picture of `size`."""
    return _levels(pipeline.decode(pipeline.unpack(latents, size)))


def preview(pipeline: Pipeline, latents: torch.Tensor, size: Size, longest_side: int) -> Picture:
    """The same, small: the latents are scaled down, so that the decoder has less to do."""
    unpacked = pipeline.unpack(latents, size)
    scale = min(1.0, longest_side / max(size))
    rows, columns = (max(1, round(extent * scale)) for extent in unpacked.shape[-2:])
    small = torch.nn.functional.interpolate(unpacked[:, :, 0], size=(rows, columns), mode="area")
    return _levels(pipeline.decode(small.unsqueeze(2)))


def _levels(decoded: torch.Tensor) -> Picture:
    """(3, height, width) in -1..1 → grey levels"""
    levels = (decoded * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
    picture: Picture = levels.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture
