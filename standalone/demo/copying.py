"""A start for the transformer: heads that look at the same place of the first and of the second reference.

Found by gradient descent alone, this takes most of a short training.
"""

from __future__ import annotations

import torch
from diffusers import QwenImageTransformer2DModel

HEADS = {0: 1, 1: 2}  # head → frames from the output to what it looks at
# Share of a head's attention that goes by each rotary axis, and of that by its fastest frequencies.
FRAME_SHARE = 0.25
FREQUENCY_SHARES = (0.6, 0.4)
BIAS_NORM = 12.0
SHARPNESS = 2.2  # of queries and keys
OTHER_WEIGHTS = 0.3  # what is left of the heads' random weights


@torch.no_grad()
def start_with_copying(transformer: QwenImageTransformer2DModel) -> None:
    width = transformer.config.attention_head_dim
    key = _key(list(transformer.config.axes_dims_rope))
    for block in transformer.transformer_blocks:
        for head, frames in HEADS.items():
            rows = slice(head * width, (head + 1) * width)
            for projection in (block.attn.to_q, block.attn.to_k):
                projection.weight[rows] *= OTHER_WEIGHTS
            block.attn.to_k.bias[rows] = BIAS_NORM * torch.view_as_real(key).flatten()
            block.attn.to_q.bias[rows] = BIAS_NORM * torch.view_as_real(_moved(key, frames, transformer)).flatten()
        for norm in (block.attn.norm_q, block.attn.norm_k):
            norm.weight.fill_(SHARPNESS)
        _open_gates(block.img_mod[1])
        _open_gates(block.txt_mod[1])


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
