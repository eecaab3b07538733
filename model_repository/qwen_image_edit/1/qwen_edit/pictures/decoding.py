"""Latents → pictures, one at a time: a batch of them is not bit-equal to each alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from qwen_edit.families.family import Size
from qwen_edit.families.grid import shaped
from qwen_edit.families.sizes import Geometry
from qwen_edit.pipeline import Pipeline

Picture = npt.NDArray[np.uint8]  # (height, width, channels): 3, or 4 of a family that answers alpha
Layers = npt.NDArray[np.uint8]  # (layers, height, width, 4)

OPAQUE = 255


def picture(pipeline: Pipeline, latents: torch.Tensor, geometry: Geometry) -> Picture:
    """The answer of packed latents (tokens, channels), resampled where it was rendered at another size."""
    rendered = _levels(pipeline.decode(pipeline.unpack(latents, geometry.output)))
    return _resampled(rendered, geometry.answer)


def layers(pipeline: Pipeline, latents: torch.Tensor, geometry: Geometry) -> Layers:
    """Of packed latents (tokens, channels) whose first frame is the layers' composition: from the bottom up."""
    _, *frames = latents.chunk(geometry.frames)
    return np.stack([_levels(pipeline.decode(pipeline.unpack(frame, geometry.output))) for frame in frames])


def preview(pipeline: Pipeline, latents: torch.Tensor, geometry: Geometry, longest_side: int) -> Picture:
    """The first frame, small: the latents are scaled down, so that the decoder has less to do."""
    unpacked = pipeline.unpack(latents[: geometry.frame_tokens], geometry.output)
    scale = min(1.0, longest_side / max(geometry.output))
    rows, columns = (max(1, round(extent * scale)) for extent in unpacked.shape[-2:])
    small = torch.nn.functional.interpolate(unpacked[:, :, 0], size=(rows, columns), mode="area")
    rendered = _levels(pipeline.decode(small.unsqueeze(2)))
    if geometry.answer == geometry.output:
        return rendered
    height, width = rendered.shape[:2]
    return _resampled(rendered, shaped(geometry.answer, (width, height)))


def apart(picture: Picture) -> tuple[Picture, npt.NDArray[np.uint8] | None]:
    """Its colours, and its alpha where it is not opaque."""
    colours, alpha = picture[..., :3], picture[..., 3:]
    return colours, alpha[..., 0] if (alpha < OPAQUE).any() else None


def on_white(picture: Picture) -> Picture:
    colours, alpha = apart(picture)
    if alpha is None:
        return colours
    height, width = alpha.shape
    white = Image.new("RGBA", (width, height), "white")
    return np.asarray(Image.alpha_composite(white, Image.fromarray(picture)).convert("RGB"))


def _resampled(rendered: Picture, size: Size) -> Picture:
    height, width = rendered.shape[:2]
    if size == (width, height):
        return rendered
    return np.asarray(Image.fromarray(rendered).resize(size, Image.Resampling.LANCZOS))


def _levels(decoded: torch.Tensor) -> Picture:
    """(channels, height, width) in -1..1 → grey levels"""
    levels = (decoded * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
    picture: Picture = levels.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture
