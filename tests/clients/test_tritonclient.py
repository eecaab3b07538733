"""The model without the shim, as in the README."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tritonclient.http
from clients.conftest import Service
from PIL import Image


def test_direct_inference_over_http(service: Service, folder: Path) -> None:
    def tensor(name: str, kind: str, value: object) -> tritonclient.http.InferInput:
        array = np.array([[value]], dtype={"BYTES": np.object_, "INT64": np.int64, "INT32": np.int32}[kind])
        return tritonclient.http.InferInput(name, array.shape, kind).set_data_from_numpy(array)

    inputs = [
        tensor("image", "BYTES", (folder / "cat.jpg").read_bytes()),
        tensor("prompt", "BYTES", b"make it a drawing"),
        tensor("seed", "INT64", 7),
        tensor("num_inference_steps", "INT32", 4),
    ]
    with tritonclient.http.InferenceServerClient(service.triton_http, network_timeout=60.0) as client:
        picture = client.infer("qwen_image_edit", inputs).as_numpy("image")[0]
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    Image.fromarray(picture).save(io.BytesIO(), "PNG")
