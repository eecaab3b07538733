"""Qwen-Image-Layered through the whole stack: pictures taken apart in both dialects, whole and as a stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
import requests

from tests.kit.answers import pictures, same
from tests.kit.servers import Server, serve_shim

EDITS = "/v1/images/edits"
TOKEN = 16  # pixels a side


def post(server: Any, *pictures: bytes, part: str = "image", **fields: str) -> requests.Response:
    data = {"prompt": "a cat", "seed": "5", **fields}
    return requests.post(f"{server.url}{EDITS}", data=data, files=[(part, each) for each in pictures], timeout=60)


def test_layers_are_told_from_the_bottom_up_and_the_same_in_segments(
    layered: Server, photo: Callable[[str], bytes]
) -> None:
    with serve_shim(f"http://{layered.triton_http}", SEGMENT_STEPS="0") as whole:
        answers = [post(each, photo("cat"), layers="3") for each in (layered, whole)]
    assert [answer.status_code for answer in answers] == [200, 200], layered.log
    in_segments, in_one = (answer.json() for answer in answers)
    assert same(pictures(in_segments), pictures(in_one))
    assert [item["layer"] for item in in_segments["data"]] == [0, 1, 2]
    shapes = {picture.shape for picture in pictures(in_segments)}
    assert len(shapes) == 1
    height, width, channels = shapes.pop()
    assert channels == 4
    assert {item["size"] for item in in_segments["data"]} == {f"{width}x{height}"}
    totals = [item["usage"]["total_tokens"] for item in in_segments["data"]]
    assert sum(totals) == in_segments["usage"]["total_tokens"]
    assert min(totals) > 0
    tokens = width // TOKEN * (height // TOKEN)
    assert in_segments["usage"]["output_tokens"] == 4 * tokens, "three layers and their composition"
    given = [item["usage"]["input_tokens_details"]["image_tokens"] for item in in_segments["data"]]
    assert given == [tokens, 0, 0]
    assert in_segments["background"] == "transparent"


def test_a_classic_batch_is_taken_apart_picture_by_picture(layered: Server, photo: Callable[[str], bytes]) -> None:
    answer = post(layered, photo("cat"), photo("coffee"), part="images", output_format="webp")
    assert answer.status_code == 200, answer.text
    assert [item["layer"] for item in answer.json()["data"]] == [0, 1, 2, 3] * 2
    assert answer.json()["output_format"] == "webp"


def test_a_stream_has_the_composition_on_the_way_and_one_event_a_layer(
    layered: Server, photo: Callable[[str], bytes]
) -> None:
    text = post(layered, photo("cat"), layers="2", stream="true", partial_images="1", resolution="1024").text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    partial, *completed = events
    assert partial["type"] == "image_edit.partial_image"
    assert [(event["type"], event["index"], event["layer"]) for event in completed] == [
        ("image_edit.completed", layer, layer) for layer in range(2)
    ]
    assert {event["size"] for event in events} == {partial["size"]}


def test_without_a_prompt_the_models_own_caption_is_told(layered: Server, photo: Callable[[str], bytes]) -> None:
    first, again = (post(layered, photo("cat"), prompt="", layers="2").json() for _ in range(2))
    assert first["data"][0]["revised_prompt"]
    assert same(pictures(first), pictures(again))
    said = post(layered, photo("cat"), layers="2", prompt=first["data"][0]["revised_prompt"][:200])
    assert said.status_code == 200
    assert "revised_prompt" not in said.json()["data"][0]


def test_openais_sdk_reads_layers(layered: Server, photo: Callable[[str], bytes]) -> None:
    with openai.OpenAI(base_url=f"{layered.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.images.edit(image=photo("cat"), prompt="x", size="auto", extra_body={"layers": 2})
    assert answer.data is not None
    assert len(answer.data) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"size": "64x64"}, "size"), ({"size": "source"}, "size"), ({"n": "2"}, "n"), 
        ({"output_format": "jpeg"}, "output_format"), ({"background": "opaque"}, "background"),
        ({"layers": "9"}, "layers"), ({"resolution": "512"}, "resolution"), ({"prompt": ""}, "prompt"),
        ({"prompt": "hat " * 600}, "prompt"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_does_not_go_with_layers_is_refused_by_name(
    layered: Server, photo: Callable[[str], bytes], fields: dict[str, str], param: str
) -> None:
    answer = post(layered, photo("cat"), **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_other_checkpoints_refuse_layers_by_name(stack: Server, photo: Callable[[str], bytes]) -> None:
    for name, value in (("layers", "4"), ("resolution", "640")):
        answer = post(stack, photo("cat"), **{name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_what_the_model_can_is_told(layered: Server) -> None:
    (model,) = requests.get(f"{layered.url}/v1/models", timeout=10).json()["data"]
    assert (model["max_references"], model["layers"]) == (1, 10)
    described = requests.get(f"{layered.url}/openapi.json", timeout=10).json()["paths"][EDITS]["post"]
    assert described["x-layers"] == 10
    assert not any("prompt" in body["schema"]["required"] for body in described["requestBody"]["content"].values())


def test_a_direct_call_answers_layers_and_no_image(layered: Server, photo: Callable[[str], bytes]) -> None:
    import tritonclient.http as http

    client = http.InferenceServerClient(layered.triton_http)
    inputs = []
    for name, value in (("image", photo("cat")), ("prompt", b"a cat")):
        tensor = http.InferInput(name, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value]], object))
        inputs.append(tensor)
    answer = client.infer("qwen_image_edit", inputs, parameters={"layers": 2, "resolution": 640})
    layers = answer.as_numpy("layers")
    assert layers is not None
    assert (layers.shape[:2], layers.shape[-1], layers.dtype) == ((1, 2), 4, np.uint8)
    assert answer.as_numpy("image") is None
