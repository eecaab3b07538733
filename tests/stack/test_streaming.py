"""Streams of the running stack, read by OpenAI's SDK and as they come off the wire."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
import requests
from PIL import Image

from tests.kit.servers import Server, serve_shim

Photo = Callable[[str], bytes]
EDIT: dict[str, Any] = {
    "prompt": "make the sky green",
    "size": "128x96",
    "extra_body": {"seed": 3, "num_inference_steps": 24},
}
LONG = {"prompt": "make the sky green", "size": "512x512", "num_inference_steps": "60"}


@pytest.fixture(scope="module")
def client(stack: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def pixels(picture: str) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), dtype=np.float64)


def test_the_sdk_gets_partial_images_that_come_closer_and_the_picture_of_the_plain_call(
    client: openai.OpenAI, photo: Photo
) -> None:
    with client.images.edit(image=photo("cat"), stream=True, partial_images=2, **EDIT) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    plain = client.images.edit(image=photo("cat"), **EDIT)
    assert plain.data is not None
    assert events[-1].b64_json == plain.data[0].b64_json
    assert {(event.size, event.output_format) for event in events} == {("128x96", "png")}
    final = pixels(events[-1].b64_json)
    errors = [np.square(pixels(event.b64_json) - final).mean() for event in events[:-1]]
    assert errors[0] > errors[1] > 0


def test_partial_images_of_unknown_steps(client: openai.OpenAI, photo: Photo) -> None:
    """The server's default is two steps here: only one lies between."""
    with client.images.edit(image=photo("cat"), prompt="x", size="64x64", stream=True, partial_images=3) as stream:
        assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


async def test_the_asynchronous_sdk_reads_streams_too(stack: Server, photo: Photo) -> None:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0) as client:
        stream = await client.images.edit(image=photo("cat"), n=2, stream=True, partial_images=1, **EDIT)
        events = [event async for event in stream]
    completed = [event for event in events if event.type == "image_edit.completed"]
    assert sorted(event.index for event in completed) == [0, 1]
    assert len(events) == 4
    assert all(event.usage.total_tokens > 0 for event in completed)


def test_a_classic_batch_is_a_stream_of_completed_events(stack: Server, photo: Photo) -> None:
    files = [("images", photo("cat")), ("images", photo("coffee"))]
    data = {"prompt": "x", "size": "64x64", "seed": "3", "stream": "true"}
    response = requests.post(f"{stack.url}/v1/images/edits", data=data, files=files, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.count("event: image_edit.completed\n") == 2
    assert response.text.endswith("\n\n")


def streamed(stack: Server, photo: bytes, **fields: str) -> requests.Response:
    """A stream whose headers have come."""
    data = LONG | {"stream": "true"} | fields
    return requests.post(f"{stack.url}/v1/images/edits", data=data, files={"image": photo}, stream=True, timeout=60)


def test_a_stream_tells_of_its_progress_and_another_runs_beside_it(stack: Server, photo: Photo) -> None:
    with streamed(stack, photo("cat")) as first:
        assert b": progress 10/60" in first.iter_lines()
        with streamed(stack, photo("coffee"), size="64x64", num_inference_steps="2") as second:
            assert second.status_code == 200
            assert b"image_edit.completed" in b"".join(second.iter_lines())


def test_headers_come_while_the_edit_still_waits(alone: Server, photo: Photo) -> None:
    """For one that Triton has in a single call: it could begin between two segments."""
    long = LONG | {"num_inference_steps": "100"}
    with serve_shim(f"http://{alone.triton_http}", SEGMENT_STEPS="0") as whole, ThreadPoolExecutor() as pool:
        url = f"{whole.url}/v1/images/edits"
        first = pool.submit(requests.post, url, data=long, files={"image": photo("cat")}, timeout=120)
        alone.wait_for(lambda: alone.metric("qwen_edit_jobs", state="running") == 1)
        # Two rows with more tokens than MAX_BATCH_TOKENS leaves beside the first: it waits for that.
        with streamed(alone, photo("coffee"), size="1536x1536", true_cfg_scale="4") as second:
            assert alone.metric("qwen_edit_jobs", state="waiting") == 1
            assert second.status_code == 200
        assert first.result().status_code == 200


def test_a_model_that_refuses_is_a_plain_400(client: openai.OpenAI, photo: Photo) -> None:
    damaged = photo("cat")[:3000]
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(image=damaged, stream=True, **EDIT)
    assert raised.value.param == "image"


def test_streams_share_the_engine(stack: Server, photo: Photo) -> None:
    def read(number: int) -> int:
        response = streamed(stack, photo("cat"), size="64x64", seed=str(number))
        with response:
            return response.text.count("event: image_edit.completed\n")

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(read, range(16))) == {1}
