"""A start for the transformer: it copies the first reference, and has a head each for the second and for the text.

Found by gradient descent alone, this takes most of a short training. The residual stream is laid out so that a token's
own latents, those it copied and what else it knows do not mix, beside a constant that keeps the normalisations linear.
"""

from __future__ import annotations

import math

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock

LATENTS = 64  # values of a token
COPIED = slice(LATENTS, 2 * LATENTS)  # where the residual stream keeps the first reference
CONSTANT = 24.0
COPYING_HEADS = {0: 1, 1: 2}  # head → frames from the output to what it looks at
TEXT_HEAD = 2
# Share of a copying head's attention that goes by each rotary axis, and of that by its fastest frequencies.
FRAME_SHARE = 0.25
FREQUENCY_SHARES = (0.5, 0.3, 0.2)
BIAS_NORM, TEXT_BIAS_NORM = 12.0, 4.0
SHARPNESS, OTHER_SHARPNESS = 3.0, 1.2  # of queries and keys, in the channels that tell places and in the others
OTHER_WEIGHTS = 0.3  # what is left of the copying heads' random weights
BRANCH_WEIGHTS = 0.2  # and of those by which the branches write


@torch.no_grad()
def start_with_copying(transformer: QwenImageTransformer2DModel) -> None:
    _lay_out(transformer.img_in)
    for block in transformer.transformer_blocks:
        _look_at_places(block, transformer)
        _look_at_text(block, transformer.config.attention_head_dim)
        for modulation in (block.img_mod[1], block.txt_mod[1]):
            modulation.weight *= BRANCH_WEIGHTS
            _open_gates(modulation)
        for shift in (0, 3):
            _read_without_constant(block.img_mod[1], shift, shift + 1)
        for writing in (block.attn.to_out[0], block.img_mlp.net[2]):
            writing.weight *= BRANCH_WEIGHTS
            writing.bias.zero_()
    _copy_once(transformer.transformer_blocks[0])
    _answer(transformer)


def _lay_out(reading: torch.nn.Linear) -> None:
    reading.weight[: COPIED.stop] = 0
    reading.weight[:LATENTS] = torch.eye(LATENTS)
    reading.weight[-1] = 0
    reading.bias.zero_()
    reading.bias[-1] = CONSTANT


def _deviation(width: int) -> float:
    """What a normalisation divides a token by, about."""
    return math.sqrt((CONSTANT**2 + 2 * LATENTS) / width - (CONSTANT / width) ** 2)


def _look_at_places(block: QwenImageTransformerBlock, transformer: QwenImageTransformer2DModel) -> None:
    width = transformer.config.attention_head_dim
    key = _key(list(transformer.config.axes_dims_rope))
    for head, frames in COPYING_HEADS.items():
        rows = slice(head * width, (head + 1) * width)
        for projection in (block.attn.to_q, block.attn.to_k):
            projection.weight[rows] *= OTHER_WEIGHTS
        block.attn.to_k.bias[rows] = BIAS_NORM * torch.view_as_real(key).flatten()
        block.attn.to_q.bias[rows] = BIAS_NORM * torch.view_as_real(_moved(key, frames, transformer)).flatten()
    sharpness = torch.where(torch.view_as_real(key + 1j * key).flatten() > 0, SHARPNESS, OTHER_SHARPNESS)
    for norm in (block.attn.norm_q, block.attn.norm_k):
        norm.weight.copy_(sharpness)


def _look_at_text(block: QwenImageTransformerBlock, width: int) -> None:
    """However many image tokens there are, what one of them reads in this head is text."""
    rows = slice(TEXT_HEAD * width, (TEXT_HEAD + 1) * width)
    for projection, sign in ((block.attn.to_q, 1), (block.attn.add_k_proj, 1), (block.attn.to_k, -1)):
        projection.bias[rows] = 0
        projection.bias[rows.stop - 1] = sign * TEXT_BIAS_NORM  # of the slowest pair, which hardly turns


def _copy_once(block: QwenImageTransformerBlock) -> None:
    attention, rows = block.attn, slice(0, LATENTS)
    attention.to_v.weight[rows] = 0
    attention.to_v.weight[rows, :LATENTS] = torch.eye(LATENTS)
    attention.to_v.bias[rows] = 0
    attention.to_out[0].weight[COPIED] = 0
    attention.to_out[0].weight[COPIED, rows] = torch.eye(LATENTS)


def _read_without_constant(modulation: torch.nn.Linear, shift: int, scale: int) -> None:
    """What is read after a normalisation is as large as in the stream, but for the constant, which is not read."""
    width = modulation.in_features
    modulation.bias[shift * width : (shift + 1) * width] = 0
    scales = slice(scale * width, (scale + 1) * width)
    modulation.bias[scales] = _deviation(width) - 1
    modulation.bias[scales.stop - 1] = -1
    modulation.weight[scales.stop - 1] = 0


def _answer(transformer: QwenImageTransformer2DModel) -> None:
    """Noise minus picture, if the token holds noise and the picture is a copy."""
    transformer.norm_out.linear.weight *= BRANCH_WEIGHTS
    _read_without_constant(transformer.norm_out.linear, shift=1, scale=0)
    answer = transformer.proj_out
    answer.bias.zero_()
    answer.weight *= BRANCH_WEIGHTS
    answer.weight[:, : COPIED.stop] = torch.cat([torch.eye(LATENTS), -torch.eye(LATENTS)], dim=1)


def _key(axes: list[int]) -> torch.Tensor:
    """A unit vector of rotary pairs, complex: what lies nearer to it in position is more alike."""
    shares = []
    for axis, dimensions in enumerate(axes):
        of_axis = FRAME_SHARE if axis == 0 else (1 - FRAME_SHARE) / 2
        fastest = (1.0,) if axis == 0 else FREQUENCY_SHARES
        shares += [of_axis * share for share in fastest] + [0.0] * (dimensions // 2 - len(fastest))
    return torch.tensor(shares).sqrt().to(torch.complex64)


def _moved(key: torch.Tensor, frames: int, transformer: QwenImageTransformer2DModel) -> torch.Tensor:
    """The key as it is `frames` further on."""
    frame_pairs = transformer.config.axes_dims_rope[0] // 2
    turned = key.clone()
    turned[:frame_pairs] *= transformer.pos_embed.pos_freqs[frames, :frame_pairs]
    return turned


def _open_gates(modulation: torch.nn.Linear) -> None:
    """The branches of a block begin at full strength, whatever the noise level."""
    for gate in (2, 5):
        modulation.bias.chunk(6)[gate].fill_(1.0)
