"""The sizes of random-weight checkpoints: what of a model's configuration differs between them."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Architecture:
    """Constructor arguments that differ between sizes; the others have their real values at every size."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    vision: dict[str, Any]
    dtype: torch.dtype
    min_pixels: int


ARCHITECTURES = {
    "tiny": Architecture(
        transformer={
            "num_layers": 2,
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "joint_attention_dim": 64,
            "axes_dims_rope": (4, 6, 6),
        },
        vae={"base_dim": 8, "num_res_blocks": 1},
        text={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "mrope_section": [2, 3, 3],
        },
        vision={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
        },
        dtype=torch.float32,
        min_pixels=28 * 28,
    ),
    "medium": Architecture(
        transformer={
            "num_layers": 6,
            "num_attention_heads": 8,
            "attention_head_dim": 128,
            "joint_attention_dim": 1024,
            "axes_dims_rope": (16, 56, 56),
        },
        vae={"base_dim": 32},
        text={
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "mrope_section": [16, 24, 24],
        },
        vision={
            "depth": 4,
            "hidden_size": 320,
            "intermediate_size": 860,
            "num_heads": 4,
            "fullatt_block_indexes": [3],
        },
        dtype=torch.float32,
        min_pixels=56 * 56,
    ),
    "full": Architecture(
        transformer={
            "num_layers": 60,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "joint_attention_dim": 3584,
            "axes_dims_rope": (16, 56, 56),
        },
        vae={"base_dim": 96},
        text={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "mrope_section": [16, 24, 24],
        },
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        dtype=torch.bfloat16,
        min_pixels=56 * 56,
    ),
}
SIZES = tuple(ARCHITECTURES)

SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}
