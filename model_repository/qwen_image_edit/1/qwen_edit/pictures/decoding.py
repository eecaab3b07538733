"""Latents → pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qwen_edit.families.family import Size


class Decoder:
    """Decodes one picture at a time: a batch of them is not bit-equal to each alone."""

    def __init__(self, pipeline: Any, device: torch.device) -> None:
        self._pipeline = pipeline
        self._device = device

    def picture(self, latents: torch.Tensor, size: Size) -> npt.NDArray[np.uint8]:
        """Packed latents (tokens, channels) of a picture of `size` → (height, width, 3)."""
        return self._decode(self._unpacked(latents, size))

    def preview(self, latents: torch.Tensor, size: Size, longest_side: int) -> npt.NDArray[np.uint8]:
        """The same, small: the latents are scaled down, so that the decoder has less to do."""
        unpacked = self._unpacked(latents, size)
        scale = min(1.0, longest_side / max(size))
        rows, columns = (max(1, round(extent * scale)) for extent in unpacked.shape[-2:])
        small = torch.nn.functional.interpolate(unpacked[:, :, 0], size=(rows, columns), mode="area")
        return self._decode(small.unsqueeze(2))

    def _unpacked(self, latents: torch.Tensor, size: Size) -> torch.Tensor:
        """(1, C, 1, h, w)"""
        width, height = size
        scale_factor = self._pipeline.vae_scale_factor
        return self._pipeline._unpack_latents(latents[None], height, width, scale_factor)  # type: ignore[no-any-return]

    def _decode(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        vae = self._pipeline.vae
        latents = latents.to(self._device, vae.dtype)
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        # Divided by the inverse, as the pipelines do it, so that the result is theirs to the last bit.
        decoded = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0][0, :, 0]  # (3, H, W)
        levels = (decoded * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
        return levels.permute(1, 2, 0).contiguous().cpu().numpy()  # type: ignore[no-any-return]
