"""What a distilled adapter was distilled for: its noise levels, steps and guidance; and changes of a scheduler's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from qwen_edit.loading.checkpoint import LoadError


@dataclass(frozen=True)
class Preset:
    num_inference_steps: int
    true_cfg_scale: float
    scheduler: dict[str, Any] = field(default_factory=dict)


# Source: the scheduler in the model card of lightx2v's Qwen-Image-Lightning. With the checkpoint's own (base_shift 0.5,
# max_shift 0.9, shift_terminal 0.02) the steps lie at other noise levels than the adapter has learnt.
LIGHTNING_SCHEDULER: dict[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
PRESETS = {
    "lightning-4": Preset(4, 1.0, LIGHTNING_SCHEDULER),
    "lightning-8": Preset(8, 1.0, LIGHTNING_SCHEDULER),
}


def reconfigured(scheduler: Any, changes: dict[str, Any]) -> Any:
    """A scheduler like this one with `changes` in its configuration; raises LoadError."""
    known = [name for name in scheduler.config if not name.startswith("_")]
    for name, value in changes.items():
        if name not in known:
            raise LoadError(f"SCHEDULER_CONFIG: {name}={value!r}; the keys are {', '.join(sorted(known))}")
    try:
        return type(scheduler).from_config({**scheduler.config, **changes})
    except (TypeError, ValueError) as error:
        raise LoadError(f"SCHEDULER_CONFIG: {error}") from None
