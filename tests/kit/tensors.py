"""The model's inputs as tensors of Triton's clients, over HTTP or gRPC."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype

MODEL = "qwen_image_edit"
TYPES = {
    "size": np.int32, "num_inference_steps": np.int32, "true_cfg_scale": np.float32, "seed": np.int64,
    "start_step": np.int32, "stop_step": np.int32, "latents": np.float32, "preview": np.int32, "arrival": np.float64,
}  # fmt: skip


def inputs(client: Any, **tensors: Any) -> list[Any]:
    """Of the module `tritonclient.http` or `tritonclient.grpc`.

    A plain value or a list of them becomes a tensor of the contract's type; an array is sent as it is.
    """
    return [_input(client, name, value) for name, value in tensors.items()]


def _input(client: Any, name: str, value: Any) -> Any:
    array = value
    if not isinstance(value, np.ndarray):
        array = np.array([value if isinstance(value, list) else [value]], dtype=TYPES.get(name, np.object_))
    tensor = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array)
