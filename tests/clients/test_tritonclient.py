"""The model without the shim, as in docs/api.md."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tritonclient.http
from PIL import Image

from tests.clients.conftest import Service
from tests.kit.tensors import MODEL, inputs


def test_direct_inference_over_http(service: Service, folder: Path) -> None:
    image = (folder / "cat.jpg").read_bytes()
    edit = inputs(tritonclient.http, image=image, prompt=b"make it a drawing", seed=7, num_inference_steps=4)
    with tritonclient.http.InferenceServerClient(service.triton_http, network_timeout=60.0) as client:
        picture = client.infer(MODEL, edit).as_numpy("image")[0]
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    Image.fromarray(picture).save(io.BytesIO(), "PNG")
