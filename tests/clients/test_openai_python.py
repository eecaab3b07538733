"""OpenAI's Python SDK: what its users pass, and the same edit whichever way it is asked for."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent, ImagesResponse

from tests.clients.conftest import Service

EDIT: dict[str, Any] = {"prompt": "make it a drawing", "size": "64x64"}
SEED = {"seed": 7, "steps": 4, "negative_prompt": "blurry", "true_cfg_scale": 4}


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client:
        yield client


def bytes_of(answer: ImagesResponse) -> list[bytes]:
    return [base64.b64decode(item.b64_json or "") for item in answer.data or ()]


@pytest.fixture(scope="module")
def plain(client: openai.OpenAI, folder: Path) -> bytes:
    (picture,) = bytes_of(client.images.edit(image=folder / "cat.jpg", extra_body=SEED, **EDIT))
    return picture


def named(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = '日本 "q".gif'
    return file


@pytest.mark.parametrize(
    "passed",
    [
        lambda path: path.open("rb"),
        lambda path: path.read_bytes(),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: named(path.read_bytes()),
        lambda path: ("x.png", path.read_bytes(), "image/webp"),
        lambda path: [path.read_bytes()],
    ],
    ids=["file", "bytes", "BytesIO", "BytesIO with a name", "tuple with a wrong type", "list of one"],
)
def test_a_picture_is_the_same_however_it_is_passed(
    client: openai.OpenAI, folder: Path, plain: bytes, passed: Any
) -> None:
    image = passed(folder / "cat.jpg")
    assert bytes_of(client.images.edit(image=image, extra_body=SEED, **EDIT)) == [plain]
    if isinstance(image, io.IOBase):
        image.close()


def test_bytes_without_any_name_are_refused_with_a_hint(client: openai.OpenAI, folder: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="with a filename") as raised:
        client.images.edit(image=(None, (folder / "cat.jpg").read_bytes(), "image/jpeg"), **EDIT)
    assert raised.value.param == "image"


def test_an_empty_list_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Image is required") as raised:
        client.images.edit(image=[], **EDIT)
    assert raised.value.param == "image"


async def test_the_async_client_gets_the_same(service: Service, folder: Path, plain: bytes) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client:
        assert bytes_of(await client.images.edit(image=folder / "cat.jpg", extra_body=SEED, **EDIT)) == [plain]
        stream = await client.images.edit(image=folder / "cat.jpg", stream=True, extra_body=SEED, **EDIT)
        (completed,) = [event async for event in stream]
    assert base64.b64decode(completed.b64_json) == plain


def test_a_stream_shows_partial_images_and_ends_in_the_same_picture(
    client: openai.OpenAI, folder: Path, plain: bytes
) -> None:
    stream = client.images.edit(image=folder / "cat.jpg", stream=True, partial_images=2, extra_body=SEED, **EDIT)
    first, second, completed = stream
    assert isinstance(first, ImageEditPartialImageEvent)
    assert isinstance(second, ImageEditPartialImageEvent)
    assert isinstance(completed, ImageEditCompletedEvent)
    assert (first.partial_image_index, second.partial_image_index) == (0, 1)
    assert len({first.b64_json, second.b64_json, completed.b64_json}) == 3
    assert base64.b64decode(completed.b64_json) == plain
    assert completed.usage.total_tokens > 0


def test_a_stream_that_is_refused_raises_like_any_call(client: openai.OpenAI, folder: Path) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=folder / "cat.jpg", stream=True, prompt="x", size="12x12")
    assert raised.value.param == "size"


def test_extra_body_reaches_the_model(client: openai.OpenAI, folder: Path, plain: bytes) -> None:
    for name, value in (("seed", 8), ("steps", 3), ("true_cfg_scale", 1.5)):
        answer = client.images.edit(image=folder / "cat.jpg", extra_body={**SEED, name: value}, **EDIT)
        assert bytes_of(answer) != [plain], name
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=folder / "cat.jpg", extra_body={**SEED, "negative_prompt": "cat " * 7999}, **EDIT)
    assert raised.value.param == "negative_prompt"


def test_a_mask_changes_the_edit(client: openai.OpenAI, folder: Path, plain: bytes) -> None:
    mask = (folder / "mask.png").read_bytes()
    answer = client.images.edit(image=folder / "cat.jpg", mask=mask, extra_body=SEED, prompt=EDIT["prompt"])
    assert len(bytes_of(answer)) == 1
    assert bytes_of(answer) != [plain]
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=folder / "cat.jpg", mask=folder / "opaque.png", prompt="x")
    assert raised.value.param == "mask"


def test_azures_client_needs_its_own_path_and_header(service: Service, folder: Path, plain: bytes) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=service.url, azure_deployment="any", api_version="2025-04-01-preview", api_key=service.key
    ) as client:
        answer = client.images.edit(model="any", image=folder / "cat.jpg", extra_body=SEED, **EDIT)
    assert bytes_of(answer) == [plain]


def test_a_base_url_without_v1_works_too(service: Service, folder: Path, plain: bytes) -> None:
    with openai.OpenAI(base_url=service.url, api_key=service.key) as client:
        assert bytes_of(client.images.edit(image=folder / "cat.jpg", extra_body=SEED, **EDIT)) == [plain]


def test_openais_json_body_is_the_same_edit(client: openai.OpenAI, folder: Path, plain: bytes) -> None:
    picture = base64.b64encode((folder / "cat.jpg").read_bytes()).decode()
    body = {**EDIT, **SEED, "images": [{"image_url": f"data:image/jpeg;base64,{picture}"}], "n": None}
    assert bytes_of(client.post("/images/edits", body=body, cast_to=ImagesResponse)) == [plain]
