"""The noise levels of a job, as the checkpoint's scheduler gives them for its steps and its own output size."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from qwen_edit.pipeline import Scheduler


@dataclass(frozen=True)
class Sigmas:
    """Noise levels of `steps` steps, float32 on the CPU."""

    levels: torch.Tensor  # (steps + 1,), the last one 0
    timesteps: torch.Tensor  # (steps,) as the transformer takes them, in 0..1

    def delta(self, step: int) -> float:
        """What an Euler step multiplies the velocity with; negative."""
        return float(self.levels[step + 1] - self.levels[step])


class NoiseLevels:
    """Makes Sigmas with the checkpoint's scheduler."""

    def __init__(self, scheduler: Scheduler, fixed: Sequence[float] | None = None, *, by_root: bool = False) -> None:
        """`fixed`: the levels but the last one, where the checkpoint has its own; `by_root`: see `shift_by_root`."""
        self._scheduler = scheduler
        self._fixed = fixed
        self._by_root = by_root
        self.sigmas = lru_cache(maxsize=256)(self._sigmas)

    def _sigmas(self, steps: int, frame_tokens: int) -> Sigmas:
        scheduler = copy.deepcopy(self._scheduler)
        mu = shift_by_root(frame_tokens) if self._by_root else shift(scheduler.config, frame_tokens)
        # Without these, set_timesteps spaces the levels otherwise than the pipelines do.
        spaced = np.linspace(1.0, 1 / steps, steps) if self._fixed is None else np.array(self._fixed)
        scheduler.set_timesteps(sigmas=spaced, device="cpu", mu=mu)
        return Sigmas(levels=scheduler.sigmas.float(), timesteps=scheduler.timesteps.float() / 1000)


def shift(config: Mapping[str, Any], output_tokens: int) -> float:
    """The dynamic shift `mu`: linear in the number of output tokens. Source: diffusers' calculate_shift."""
    base_tokens = config.get("base_image_seq_len", 256)
    max_tokens = config.get("max_image_seq_len", 4096)
    base_shift = config.get("base_shift", 0.5)
    max_shift = config.get("max_shift", 1.15)
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return float(output_tokens * slope + (base_shift - slope * base_tokens))


def shift_by_root(frame_tokens: int) -> float:
    """The shift of Qwen-Image-Layered: 1 at 256 x 256 pixels. Source: diffusers' pipeline of it."""
    return math.sqrt(frame_tokens / 256)
