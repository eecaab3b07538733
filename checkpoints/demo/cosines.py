"""The VAE's encoder, set by hand: its 16 latent channels are cosine coefficients of 4x4 pixels, as in a JPEG.

Ten of brightness and three of each colour difference. Such latents are local and linear in the pixels, which makes
edits easy to learn, and leave nothing of the encoder to be trained. The decoder only gets a start here: colours without
detail.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage

BLOCK = 4  # pixels a side
BRIGHTNESS = torch.tensor([0.299, 0.587, 0.114])
# Rows: brightness, blue less brightness, red less brightness.
COLOURS = torch.stack([BRIGHTNESS, *(0.5 * (torch.eye(3)[channel] - BRIGHTNESS) for channel in (2, 0))])
FREQUENCIES = (
    tuple((0, v, u) for v in range(BLOCK) for u in range(BLOCK) if u + v < BLOCK),
    tuple((colour, v, u) for colour in (1, 2) for v, u in ((0, 0), (0, 1), (1, 0))),
)
# A constant channel, far above the others: with it the normalisations divide by nearly the same everywhere.
CONSTANT = 30.0
DECODER_CONSTANT = 4.0
LOG_VARIANCE = -6.0  # of the posterior, whose mode is all that is ever used
DETAIL_STD = 0.3  # of what is left of the decoder's random residual branches, relative


def coefficients() -> torch.Tensor:
    """(16, 3, 4, 4): what each latent channel is of the RGB values of a block; the first of a colour is its mean."""
    kernels = []
    for colour, v, u in (*FREQUENCIES[0], *FREQUENCIES[1]):
        plane = torch.outer(_cosine(v), _cosine(u)) / BLOCK
        kernels.append(COLOURS[colour][:, None, None] * plane)
    return torch.stack(kernels)


def _cosine(frequency: int) -> torch.Tensor:
    """(4,), orthonormal"""
    scale = math.sqrt((1 if frequency == 0 else 2) / BLOCK)
    return scale * torch.cos(math.pi / BLOCK * (torch.arange(BLOCK) + 0.5) * frequency)


@torch.no_grad()
def set_encoder(vae: AutoencoderKLQwenImage) -> None:
    encoder, channels = vae.encoder, vae.config.z_dim
    for parameter in (*encoder.parameters(), *vae.quant_conv.parameters()):
        parameter.zero_()
    encoder.conv_in.weight[:3, :, -1, 1, 1] = torch.eye(3)
    first, widening, second = _halvings(encoder)
    for colour in range(3):
        for pixel in range(4):  # of a block of 2x2
            first.weight[colour * 4 + pixel, colour, pixel // 2, pixel % 2] = 1
    widening.weight[:12, :12, -1, 0, 0] = torch.eye(12)
    kernels = coefficients().view(channels, 3, 2, 2, 2, 2)  # row of the block, row in it, column of the block, column
    by_pixel = kernels.permute(0, 1, 3, 5, 2, 4).reshape(channels, 12, 2, 2)
    second.weight[:channels, :12, :2, :2] = by_pixel
    second.weight[channels : 2 * channels, :12, :2, :2] = -by_pixel
    second.bias[-1] = CONSTANT
    _linear_output(encoder, channels, CONSTANT)
    vae.quant_conv.weight[:channels, :channels, -1, 0, 0] = torch.eye(channels)
    vae.quant_conv.bias[channels:] = LOG_VARIANCE


def _halvings(encoder: Any) -> tuple[Any, ...]:
    """The two strided convolutions, and the one between them that widens."""
    strided = [block.resample[1] for block in encoder.down_blocks if hasattr(block, "resample")]
    widening = [block.conv_shortcut for block in encoder.down_blocks if hasattr(block, "conv1")][1]
    return strided[0], widening, strided[1]


def _linear_output(coder: Any, channels: int, constant: float) -> None:
    """Output i becomes channel i, given its negative as channel `channels` + i: silu(x) - silu(-x) = x."""
    coder.norm_out.gamma.fill_(1)
    width = coder.norm_out.gamma.shape[0]
    coder.conv_out.weight.zero_()
    coder.conv_out.bias.zero_()
    scale = constant / math.sqrt(width) * torch.eye(channels)
    coder.conv_out.weight[:channels, :channels, -1, 1, 1] = scale
    coder.conv_out.weight[:channels, channels : 2 * channels, -1, 1, 1] = -scale


@torch.no_grad()
def start_decoder(vae: AutoencoderKLQwenImage) -> None:
    """The mean colours of the blocks, blended into each other; other channels and residual branches stay random."""
    decoder, channels = vae.decoder, vae.config.z_dim
    for name, module in decoder.named_modules():
        if name.endswith(".conv2"):
            module.weight *= DETAIL_STD
            module.bias.zero_()
    vae.post_quant_conv.weight.zero_()
    vae.post_quant_conv.bias.zero_()
    vae.post_quant_conv.weight[:channels, :channels, -1, 0, 0] = torch.eye(channels)
    decoder.conv_in.weight[:3] = 0
    decoder.conv_in.bias[:3] = 0
    decoder.conv_in.weight[:3, _mean_channels(), -1, 1, 1] = torch.linalg.inv(COLOURS)
    first, second = (block.upsamplers[0].resample[1] for block in decoder.up_blocks if block.upsamplers is not None)
    blend = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    _pass_on(first, 3, blend)
    for block in decoder.up_blocks:
        shortcut = block.resnets[0].conv_shortcut
        if hasattr(shortcut, "weight"):
            _pass_on(shortcut, 3, torch.ones(1, 1))
    _pass_on(second, 3, blend)
    second.weight[3:6] = -second.weight[:3]
    second.bias[3:6] = 0
    second.weight[-1] = 0
    second.bias[-1] = DECODER_CONSTANT
    fine = decoder.conv_out.weight.clone()
    _linear_output(decoder, 3, DECODER_CONSTANT)
    decoder.conv_out.weight[:, 6:-1] = 0.3 * fine[:, 6:-1]


def _mean_channels() -> list[int]:
    """The latent channels that are the means of the three colours."""
    return [n for n, (_, v, u) in enumerate((*FREQUENCIES[0], *FREQUENCIES[1])) if v == u == 0]


def _pass_on(convolution: Any, channels: int, kernel: torch.Tensor) -> None:
    """The first channels are handed on alone, filtered with the kernel."""
    convolution.weight[:channels] = 0
    convolution.bias[:channels] = 0
    for channel in range(channels):
        weight = convolution.weight[channel, channel]
        (weight[-1] if weight.ndim == 3 else weight).copy_(kernel)
