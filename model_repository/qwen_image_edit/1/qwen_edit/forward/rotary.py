"""Rotary positions, in real numbers for torch's compiler.

diffusers multiplies complex numbers, for which the compiler generates no code: every product becomes a kernel of its
own between the compiled ones. Where nothing is compiled, one complex product is the faster.
"""

from __future__ import annotations

import torch


def rotated(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, 2 × pairs), each pair turned by its angle, given as (tokens, pairs, [cosine, sine])."""
    pairs = states.float().reshape(*states.shape[:-1], -1, 2)
    turned = in_real_numbers if torch.compiler.is_compiling() else in_complex_numbers
    return turned(pairs, angles[:, None]).flatten(2).type_as(states)


def in_real_numbers(pairs: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    real, imaginary = pairs.unbind(-1)
    cosine, sine = angles.unbind(-1)
    return torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)


def in_complex_numbers(pairs: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(angles))
