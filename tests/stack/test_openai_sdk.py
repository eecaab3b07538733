"""OpenAI's own SDK against the running stack."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import TypedDict

import openai
import pytest
from PIL import Image

from tests.kit.servers import Server, serve_shim

KEY = "a-secret-key"


class Small(TypedDict):
    prompt: str
    size: str


SMALL: Small = {"prompt": "make it black and white", "size": "128x96"}
Photo = Callable[[str], bytes]


@pytest.fixture(scope="module")
def client(stack: Server) -> Iterator[openai.OpenAI]:
    with (
        serve_shim(f"http://{stack.triton_http}", API_KEY=KEY, MODEL_ID="qwen-image-edit-tiny") as shim,
        openai.OpenAI(base_url=f"{shim.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        yield client


def picture(answer: openai.types.ImagesResponse) -> Image.Image:
    assert answer.data is not None
    (item,) = answer.data
    assert item.b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


def test_one_image_is_edited(client: openai.OpenAI, photo: Photo) -> None:
    answer = client.images.edit(image=photo("cat"), **SMALL)
    assert picture(answer).size == (128, 96)
    assert picture(answer).format == "PNG"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.image_tokens == answer.usage.output_tokens
    assert answer.usage.output_tokens_details.text_tokens == 0
    assert answer.background == "opaque"
    assert answer.quality is None, "the model has none, and a guess would be read as a fact"


def test_two_images_are_references_of_one_edit(client: openai.OpenAI, photo: Photo) -> None:
    answer = client.images.edit(image=[photo("cat"), photo("coffee")], **SMALL)
    assert picture(answer).size == (128, 96)
    alone = client.images.edit(image=photo("cat"), **SMALL)
    assert answer.usage is not None
    assert alone.usage is not None
    tokens = [usage.input_tokens_details.image_tokens for usage in (answer.usage, alone.usage)]
    assert tokens[0] > tokens[1]


def test_n_and_the_output_format_are_obeyed(client: openai.OpenAI, photo: Photo) -> None:
    answer = client.images.edit(image=photo("cat"), n=2, output_format="webp", **SMALL)
    assert answer.data is not None
    pictures = [base64.b64decode(item.b64_json or "") for item in answer.data]
    assert [Image.open(io.BytesIO(data)).format for data in pictures] == ["WEBP", "WEBP"]
    assert pictures[0] != pictures[1]


def test_the_served_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["qwen-image-edit-tiny"]


def test_a_wrong_key_is_an_authentication_error_that_says_so(client: openai.OpenAI, photo: Photo) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        client.with_options(api_key="wrong").images.edit(image=photo("cat"), **SMALL)
    assert "Invalid API key" in raised.value.message
    assert (raised.value.status_code, raised.value.code) == (401, "UNAUTHORIZED")


def test_a_bad_size_is_a_bad_request_that_names_the_field(client: openai.OpenAI, photo: Photo) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=photo("cat"), prompt="x", size="12x12")
    assert raised.value.param == "size"
    assert "12x12" in raised.value.message
    assert raised.value.request_id
