"""Qwen-Image-2.1 through the whole stack: in segments, by the steps that its checkpoint fixes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import requests
from PIL import Image

from tests.kit import loras, stock
from tests.kit.answers import pictures, same
from tests.kit.engines import load_pipeline
from tests.kit.servers import Server, serve, serve_shim


@pytest.fixture(scope="module")
def turbo(sensitive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("loras")
    for name, seed in (("ink", 0), ("oil", 1)):
        pairs = loras.pairs(load_pipeline(sensitive("2.1")).transformer, ["attn"], seed=seed)
        loras.write(folder, name, loras.diffusers_keys(pairs))
    (folder / "link.safetensors").symlink_to(folder / "ink.safetensors")
    with serve(sensitive("2.1-turbo"), REFERENCE_AREA="16384", SEGMENT_STEPS="3", LORA_DIR=str(folder)) as server:
        yield server


def test_a_turbo_edit_in_segments_is_that_in_one_piece(turbo: Server, photo: Callable[[str], bytes]) -> None:
    asked = {"prompt": "make it blue", "size": "96x64", "seed": "5", "steps": "4"}
    files = [("image[]", photo("cat")), ("image[]", photo("coffee"))]
    before, encoded = (turbo.metric(f"qwen_edit_{name}_total") for name in ("steps", "prefix_encodes"))
    with serve_shim(f"http://{turbo.triton_http}", SEGMENT_STEPS="0") as whole:
        answers = [
            requests.post(f"{each.url}/v1/images/edits", data=asked, files=files, timeout=60) for each in (turbo, whole)
        ]
    assert [answer.status_code for answer in answers] == [200, 200], turbo.log
    others = [
        requests.post(f"{turbo.url}/v1/images/edits", data=asked | more, files=files, timeout=60).json()
        for more in ({"background": "opaque"}, {"output_format": "jpeg"}, {"background": "transparent"})
    ]
    in_segments, in_one = (pictures(answer.json()) for answer in answers)
    assert in_segments[0].shape == (64, 96, 4)
    assert same(in_segments, in_one)
    assert {(answer.json()["background"], answer.json()["num_inference_steps"]) for answer in answers} == {
        ("transparent", 8)
    }
    assert [answer["background"] for answer in others] == ["opaque", "opaque", "transparent"]
    assert not same(pictures(others[2]), in_one), "the wording is around the prompt"
    assert pictures(others[0])[0].shape == (64, 96, 3)
    assert turbo.metric("qwen_edit_steps_total") - before == 5 * 8, "eight steps are what the checkpoint knows"
    assert turbo.metric("qwen_edit_prefix_encodes_total") - encoded == 2, "of the prompt and of that with the wording"
    assert turbo.metric("qwen_edit_prefix_recomputations_total") == 0
    assert turbo.metric("qwen_edit_prefix_bytes") > 0


def test_an_edit_has_the_adapters_that_it_asks_for_in_every_segment(
    turbo: Server, photo: Callable[[str], bytes]
) -> None:
    def answered(server: Server, **fields: str) -> requests.Response:
        asked = {"prompt": "make it blue", "size": "96x64", "seed": "5", **fields}
        files = {"image": photo("cat")}
        return requests.post(f"{server.url}/v1/images/edits", data=asked, files=files, timeout=60)

    base, *named = [model["id"] for model in requests.get(f"{turbo.url}/v1/models", timeout=10).json()["data"]]
    assert named == [f"{base}:ink", f"{base}:oil"]
    with serve_shim(f"http://{turbo.triton_http}", SEGMENT_STEPS="0") as whole:
        in_one = pictures(answered(whole, lora="ink:1").json())
    ways = [{"lora": "ink"}, {"lora": '{"ink": 1}'}, {"model": f"{base}:ink"}]
    assert all(same(pictures(answered(turbo, **way).json()), in_one) for way in ways)
    assert not same(pictures(answered(turbo).json()), in_one)
    assert not same(pictures(answered(turbo, lora="oil").json()), in_one)
    body = {
        "prompt": "p",
        "images": [f"data:image/jpeg;base64,{base64.b64encode(photo('cat')).decode()}"],
        "size": "96x64",
        "lora": {"ink": 1, "oil": -0.5},
    }
    assert requests.post(f"{turbo.url}/v1/images/edits", json=body, timeout=60).status_code == 200
    for field, value in (("lora", "link"), ("lora", "../ink"), ("lora", "ink:99"), ("model", f"{base}:red")):
        refused = answered(turbo, **{field: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), refused.text
        assert "/" not in refused.json()["error"]["message"].replace("../ink", "")
    assert same(pictures(answered(turbo, model="gpt-image-1:ink").json()), pictures(answered(turbo).json()))


def test_what_the_model_can_is_told(turbo: Server, stack: Server) -> None:
    told = [requests.get(f"{server.url}/v1/models", timeout=10).json()["data"][0] for server in (turbo, stack)]
    names = ("max_references", "generations", "transparent_background")
    assert [tuple(model[name] for name in names) for model in told] == [(10, True, True), (3, False, False)]
    answer = requests.post(
        f"{turbo.url}/v1/images/edits", data={"prompt": "x"}, files=[("image", b"x")] * 11, timeout=9
    )
    assert (answer.status_code, "at most 10 references" in answer.text) == (400, True)


def test_openais_sdk_edits_ten_pictures_and_makes_one_of_a_text(turbo: Server, photo: Callable[[str], bytes]) -> None:
    more = {"seed": 3}
    with openai.OpenAI(base_url=f"{turbo.url}/v1", api_key="none", max_retries=0) as client:
        edited = client.images.edit(image=[photo("cat")] * 10, prompt="x", size="auto", extra_body=more)
        made = client.images.generate(prompt="a cat", n=2, size="auto", extra_body=more)
        streamed = list(client.images.generate(prompt="a cat", stream=True, partial_images=1, extra_body=more))
    assert edited.usage
    assert edited.usage.input_tokens_details.image_tokens > 10 * 50
    sizes = [Image.open(io.BytesIO(base64.b64decode(item.b64_json or ""))).size for item in made.data or ()]
    assert sizes == [(128, 128), (128, 128)]
    assert [event.type for event in streamed] == ["image_generation.partial_image", "image_generation.completed"]
    assert streamed[-1].size == "128x128"


@pytest.mark.parametrize("references", [0, 1], ids=["generate", "edit"])
def test_openais_sdk_gets_a_transparent_background_with_the_alpha_of_diffusers(
    turbo: Server, sensitive: Callable[[str], Path], photo: Callable[[str], bytes], references: int
) -> None:
    worded = (
        "This is an RGBA image with transparency. a red kite "
        "The image has alpha channel and the background is transparent."
    )
    square = io.BytesIO()
    with Image.open(io.BytesIO(photo("cat"))) as cat:
        cat.crop((0, 0, 256, 256)).save(square, "PNG")
    with openai.OpenAI(base_url=f"{turbo.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"prompt": "a red kite", "background": "transparent", "size": "128x128", "extra_body": {"seed": 7}}
        call: Any = client.images.edit if references else client.images.generate
        answer = call(**asked, **({"image": square.getvalue()} if references else {}))
    theirs = stock.run(
        load_pipeline(sensitive("2.1-turbo")), [Image.open(square)] if references else None, prompt=worded,
        negative_prompt=None, true_cfg_scale=1.0, size=(128, 128), num_inference_steps=8, seed=7, output_type="pil",
        output_resolution=128,
    )  # fmt: skip
    assert answer.background == "transparent"
    ours = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert (ours.mode, theirs.mode) == ("RGBA", "RGBA")
    levels = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    assert levels[..., 3].max() <= 1
    assert levels.max() <= 1, "and so are the colours"
    assert np.asarray(theirs)[..., 3].min() < 255


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "x", "size": "source"}, 400, "size: the source's, without a reference image"),
        ({"prompt": "x", "images": [{"image_url": "data:image/png;base64,AAAA"}]}, 400, "of the prompt alone here"),
        ({}, 400, "prompt is required"),
    ],
    ids=["source", "pictures", "no prompt"],
)
def test_a_generation_that_cannot_be_is_refused(
    turbo: Server, body: dict[str, object], status: int, words: str
) -> None:
    answer = requests.post(f"{turbo.url}/v1/images/generations", json=body, timeout=30)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_a_model_of_opaque_pictures_says_so(stack: Server, photo: Callable[[str], bytes]) -> None:
    asked = {"prompt": "x", "background": "transparent"}
    answer = requests.post(f"{stack.url}/v1/images/edits", data=asked, files={"image": photo("cat")}, timeout=30)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "background")
    assert "pictures of this checkpoint are opaque" in answer.json()["error"]["message"]


def test_a_model_that_only_edits_says_so(stack: Server) -> None:
    answer = requests.post(f"{stack.url}/v1/images/generations", json={"prompt": "a cat"}, timeout=30)
    assert answer.status_code == 400
    assert "at least one encoded reference image is needed: this checkpoint edits" in answer.json()["error"]["message"]
