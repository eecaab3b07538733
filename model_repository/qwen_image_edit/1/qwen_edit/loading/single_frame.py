"""The VAE for pictures: diffusers runs each as a film of one frame, through convolutions over time.

In front of the first frame such a convolution sees zeros, so that only the last slice of its kernel meets the picture:
that slice alone is a convolution over two dimensions, with the same results and a third of the work. What is kept of
a frame for the next one is not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d

from qwen_edit.pipeline import zeros_around

OVER_FRAMES = "time_conv"  # never runs for the first frame


def bind(vae: Any) -> None:
    """Changes an AutoencoderKLQwenImage for good; call it once, before anything puts hooks on it."""
    for parent in list(vae.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QwenImageCausalConv3d) and name != OVER_FRAMES:
                setattr(parent, name, PictureConvolution(child))
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    for coder in (vae.encoder, vae.decoder):
        coder.forward = SingleFrame(coder)


class PictureConvolution(torch.nn.Conv2d):
    def __init__(self, causal: QwenImageCausalConv3d) -> None:
        super().__init__(
            causal.in_channels, causal.out_channels, causal.kernel_size[1:], causal.stride[1:], zeros_around(causal),
            device="meta",
        )  # fmt: skip
        self.weight = torch.nn.Parameter(causal.weight[:, :, -1].contiguous(), requires_grad=False)
        self.bias = causal.bias

    def forward(self, frames: torch.Tensor, cache_x: None = None) -> torch.Tensor:
        """(B, C, 1, h, w) → (B, C', 1, h', w')"""
        return super().forward(frames[:, :, 0]).unsqueeze(2)


class SingleFrame:
    """The `forward` of an encoder or decoder without its cache of earlier frames."""

    def __init__(self, coder: Any) -> None:
        self._diffusers = coder.forward

    def __call__(self, frames: torch.Tensor, **of_earlier_frames: Any) -> torch.Tensor:
        coded: torch.Tensor = self._diffusers(frames)
        return coded
