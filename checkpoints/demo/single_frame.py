"""The VAE's causal 3D convolutions as 2D ones: equal on single pictures, and several times faster to train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from qwen_edit.pipeline import zeros_around


@contextlib.contextmanager
def single_frame() -> Iterator[None]:
    """Within it every causal convolution takes (B, C, 1, H, W) only, and gives what it gives outside."""
    original = QwenImageCausalConv3d.forward
    QwenImageCausalConv3d.forward = _forward
    try:
        yield
    finally:
        QwenImageCausalConv3d.forward = original


def _forward(convolution: Any, x: torch.Tensor, cache_x: None = None) -> torch.Tensor:
    # In front of the first frame is zero padding: only the kernel's last slice meets a picture.
    kernel = convolution.weight[:, :, -1]
    padding = zeros_around(convolution)
    return F.conv2d(x[:, :, 0], kernel, convolution.bias, convolution.stride[1:], padding).unsqueeze(2)


@torch.no_grad()
def clear_unused_kernels(vae: torch.nn.Module) -> None:
    """Zeros the kernel slices that no single picture meets: untrained, they are noise."""
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.weight[:, :, :-1].zero_()
