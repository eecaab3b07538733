"""Edits in segments are the edits in one piece, whatever breaks off between."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import requests
from PIL import Image

from tests.kit.balancer import Balancer, balance
from tests.kit.encoding import encoded
from tests.kit.servers import Server, serve_shim

Photo = Callable[[str], bytes]
EDITS = "/v1/images/edits"
STEPS = "7"
SMALL = {"prompt": "make the sky green", "size": "64x64", "seed": "3", "num_inference_steps": STEPS}


def half_mask(width: int, height: int) -> bytes:
    """The left half is to be edited."""
    luma = np.zeros((height, width), np.uint8)
    luma[:, : width // 2] = 255
    buffer = io.BytesIO()
    Image.fromarray(luma).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole(stack: Server) -> Iterator[Server]:
    with serve_shim(f"http://{stack.triton_http}", SEGMENT_STEPS="0") as shim:
        yield shim


@pytest.fixture(scope="module")
def balancer(stack: Server) -> Iterator[Balancer]:
    with balance(f"http://{stack.triton_http}") as balancer:
        yield balancer


@pytest.fixture(scope="module")
def segmented(balancer: Balancer) -> Iterator[Server]:
    """Three steps a segment, through the balancer."""
    with serve_shim(balancer.url, SEGMENT_STEPS="3", REQUEST_TIMEOUT_SECONDS="30") as shim:
        yield shim


def edit(shim: Server, photo: bytes, mask: bytes = b"", markup: bytes = b"", /, **fields: str) -> list[str]:
    """The pictures in base64."""
    given = {"image": photo, "mask": mask, "markup": markup}
    files = {name: file for name, file in given.items() if file}
    response = requests.post(f"{shim.url}{EDITS}", data={**SMALL, **fields}, files=files, timeout=60)
    assert response.status_code == 200, f"{response.text[:500]}\n{shim.log}"
    return [item["b64_json"] for item in response.json()["data"]]


@pytest.mark.parametrize(
    "fields",
    [{}, {"true_cfg_scale": "4", "negative_prompt": "grey"}, {"num_inference_steps": ""}, {"size": "auto"}],
    ids=["plain", "guided", "the server's steps", "the model's size"],
)
def test_an_edit_in_segments_has_the_bytes_of_one_piece(
    segmented: Server, whole: Server, photo: Photo, fields: dict[str, str]
) -> None:
    assert edit(segmented, photo("cat"), **fields) == edit(whole, photo("cat"), **fields)


def test_a_drawing_over_the_picture_is_in_every_segment(segmented: Server, whole: Server, photo: Photo) -> None:
    width, height = Image.open(io.BytesIO(photo("cat"))).size
    layer = Image.new("RGBA", (width, height))
    layer.paste((255, 0, 0, 255), (0, 0, width // 2, height // 2))
    drawn = edit(segmented, photo("cat"), b"", encoded(layer), size="auto")
    assert drawn == edit(whole, photo("cat"), b"", encoded(layer), size="auto")
    assert drawn != edit(whole, photo("cat"), size="auto")


def test_a_masked_edit_in_segments_has_the_bytes_of_one_piece(segmented: Server, whole: Server, photo: Photo) -> None:
    size = Image.open(io.BytesIO(photo("cat"))).size
    mask = half_mask(*size)
    assert edit(segmented, photo("cat"), mask, size="auto") == edit(whole, photo("cat"), mask, size="auto")


def test_a_photograph_reaches_triton_once_and_its_name_with_the_other_segments(
    segmented: Server, balancer: Balancer, photo: Photo
) -> None:
    before, calls = balancer.bytes, balancer.calls
    edit(segmented, photo("cat"))
    assert balancer.calls - calls == 3
    latents = 2 * 16 * 64 * 4  # of 64x64 pixels, twice
    assert balancer.bytes - before < len(photo("cat")) + latents + 5_000


def test_an_edit_is_as_many_calls_as_it_has_segments(segmented: Server, balancer: Balancer, photo: Photo) -> None:
    before = balancer.calls
    edit(segmented, photo("cat"))
    assert balancer.calls - before == 3
    edit(segmented, photo("cat"), num_inference_steps="")  # the two steps of the server's default
    assert balancer.calls - before == 3 + 2


@pytest.mark.parametrize(
    ("fault", "wasted"),
    [
        ("reset", 0),
        ("page", 0),
        ("page with status 200", 0),
        ("dead worker", 0),
        ("answer lost", 3),
        ("answer cut off", 3),
    ],
)
@pytest.mark.parametrize("segment", [0, 1], ids=["first", "second"])
def test_a_segment_that_breaks_off_is_repeated_alone(
    alone: Server,
    segmented: Server,
    whole: Server,
    balancer: Balancer,
    photo: Photo,
    fault: str,
    wasted: int,
    segment: int,
) -> None:
    expected = edit(whole, photo("cat"))
    before = alone.metric("qwen_edit_steps_total")
    balancer.script = ["pass"] * segment + [fault]
    assert edit(segmented, photo("cat")) == expected
    assert alone.metric("qwen_edit_steps_total") - before == int(STEPS) + wasted
    assert balancer.script == []


def test_a_continued_segment_is_sent_again_when_it_is_refused(
    segmented: Server, whole: Server, balancer: Balancer, photo: Photo
) -> None:
    balancer.script = ["pass", "refusal", "refusal"]
    assert edit(segmented, photo("cat")) == edit(whole, photo("cat"))


@pytest.mark.parametrize("stream", ["false", "true"], ids=["plain", "stream"])
def test_a_first_segment_that_is_refused_refuses_the_request(
    segmented: Server, balancer: Balancer, photo: Photo, stream: str
) -> None:
    balancer.script = ["refusal"]
    response = requests.post(
        f"{segmented.url}{EDITS}", data={**SMALL, "stream": stream}, files={"image": photo("cat")}, timeout=60
    )
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "QUEUE_FULL"
    assert response.headers["retry-after"] in ("5", "6", "7")


def test_one_whose_triton_never_comes_back_ends_at_the_time_limit(stack: Server, photo: Photo) -> None:
    with (
        balance(f"http://{stack.triton_http}") as balancer,
        serve_shim(balancer.url, SEGMENT_STEPS="3", REQUEST_TIMEOUT_SECONDS="2") as shim,
    ):
        balancer.script = ["pass", *["reset"] * 100]
        started = time.monotonic()
        response = requests.post(f"{shim.url}{EDITS}", data=SMALL, files={"image": photo("cat")}, timeout=60)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "GENERATION_TIMEOUT"
        assert response.headers["x-should-retry"] == "false"
        assert time.monotonic() - started >= 2


def test_a_word_for_quality_reaches_a_model_that_has_no_other_steps(alone: Server, whole: Server, photo: Photo) -> None:
    with serve_shim(f"http://{alone.triton_http}", QUALITY_PRESETS="true", SEGMENT_STEPS="1") as shim:
        usual = SMALL | {"num_inference_steps": ""}
        answer = requests.post(
            f"{shim.url}{EDITS}", data=usual | {"quality": "max"}, files={"image": photo("cat")}, timeout=60
        ).json()
    assert [item["b64_json"] for item in answer["data"]] == edit(whole, photo("cat"), num_inference_steps="")
    assert not {"quality", "num_inference_steps"} & set(answer)


def test_the_step_cache_makes_one_picture_in_segments_and_in_one_piece(
    alone: Server, segmented: Server, whole: Server, photo: Photo
) -> None:
    fields = {"cache": "mild", "num_inference_steps": "12"}
    spared = alone.metric("qwen_edit_steps_spared_total")
    steps = alone.metric("qwen_edit_steps_total")
    in_segments = edit(segmented, photo("cat"), **fields)
    assert alone.metric("qwen_edit_steps_spared_total") - spared == 4
    assert alone.metric("qwen_edit_steps_total") - steps == 8
    assert edit(whole, photo("cat"), **fields) == in_segments
    assert edit(whole, photo("cat"), **(fields | {"cache": "off"})) != in_segments
