from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qwen_edit.request import MAX_PREVIEW_SIDE
from starlette.datastructures import UploadFile
from tritonclient.utils import deserialize_bytes_tensor

from shim.errors import GenerationError, GenerationTimeout, InvalidInput, QueueFull, ShimError
from shim.reading.edit import edit_of
from shim.reading.uploads import Part
from shim.running import triton as calls
from shim.running.faults import Interrupted, TritonFault, UnknownPictures, Unreached
from shim.running.segments import Outcome, Segment
from shim.running.standing import Standing
from shim.running.triton import PREVIEW_SIDE, Triton, body_of, model_error, outcome, refusal
from shim.running.upstream import names_of, servers_of
from shim.settings import Settings
from tests.kit.haproxy import balancer
from tests.kit.http_triton import FINISHED_OUTPUTS, HttpTriton, answered, http_triton

FIELDS = {"image": "images", "num_inference_steps": "steps", "size": "size"}


def test_previews_are_as_large_as_the_model_makes_them() -> None:
    assert PREVIEW_SIDE == MAX_PREVIEW_SIDE


@pytest.mark.parametrize("prefix", ["", "in ensemble 'edits', ", "[StatusCode.INTERNAL] ", "error:"])
@pytest.mark.parametrize(
    ("message", "kind", "param", "told"),
    [
        ("invalid: size: 63x64, at least 64", InvalidInput, "size", "size: 63x64, at least 64"),
        ("invalid: num_inference_steps: 900", InvalidInput, "steps", "steps: 900"),
        ("invalid: image: not a picture", InvalidInput, "images", "images: not a picture"),
        ("invalid: latents: shape", InvalidInput, None, "latents: shape"),
        ("invalid: two\nlines", InvalidInput, None, "two\nlines"),
        ("failed: out of memory", GenerationError, None, "Image generation failed: out of memory"),
        ("cancelled: by the client", GenerationError, None, "Image generation failed: by the client"),
        ("cancelled: out of time: x", GenerationTimeout, None, "The edit could not be done in time any more"),
        ("queue_full: 64 jobs", QueueFull, None, "The server has all the work that it can hold; try again later"),
    ],
)
def test_the_error_word_decides(prefix: str, message: str, kind: type[ShimError], param: str | None, told: str) -> None:
    error = model_error(prefix + message, FIELDS)
    assert type(error) is kind
    assert (error.param, error.message) == (param, told)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Request for unknown model: 'qwen_image_edit' is not found",
        "Failed to process the request(s) for model 'qwen_image_edit', message: Stub process is not healthy.",
        "request failed",
        "prefailed: x",
    ],
)
def test_a_message_without_a_word_is_the_machinerys(message: str) -> None:
    assert model_error(message, FIELDS) is None


def test_pictures_that_the_model_does_not_know_break_the_call_off() -> None:
    assert isinstance(model_error("unknown_pictures: send the pictures", FIELDS), UnknownPictures)


def test_a_long_message_is_cut() -> None:
    error = model_error("failed: " + "x" * 10_000, FIELDS)
    assert isinstance(error, GenerationError)
    assert len(error.message) < 600


NUMBERS = {
    "start_step": "<i4",
    "stop_step": "<i4",
    "num_inference_steps": "<i4",
    "true_cfg_scale": "<f4",
    "seed": "<i8",
}


def upload(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), size=len(data), filename="a.png")


PLAIN: list[Part] = [("prompt", "p"), ("image", upload(b"x"))]


def segment_of(parts: list[Part], settings: Settings | None = None) -> Segment:
    """The first job's first segment."""
    edit = edit_of(parts, "openai", settings or Settings())
    return Segment(edit.jobs()[0], Standing(arrived=1.5, deadline=291.5), edit.steps, edit.true_cfg_scale)


async def tensors(segment: Segment) -> dict[str, tuple[str, list[int], bytes]]:
    """Inputs as they travel: datatype, shape and bytes by name."""
    made = body_of(segment, "request-0")
    body, header_length = b"".join([bytes(chunk) async for chunk in made.chunks()]), len(made.header)
    assert len(body) == made.length
    header: dict[str, Any] = json.loads(body[:header_length])
    assert header["id"] == "request-0"
    assert header["parameters"] == {"binary_data_output": True}
    sent, start = {}, header_length
    for tensor in header["inputs"]:
        end = start + tensor["parameters"]["binary_data_size"]
        sent[tensor["name"]] = tensor["datatype"], tensor["shape"], body[start:end]
        start = end
    assert start == len(body)
    return sent


async def test_what_the_client_left_out_is_not_sent() -> None:
    assert set(await tensors(segment_of(PLAIN))) == {"image", "prompt", "seed"}


def test_what_the_model_is_told_of_a_place_is_in_seconds_from_now() -> None:
    standing = Standing(arrived=10.0, deadline=300.0, caller="10.0.0.1" + "x" * 99, siblings=3)
    assert standing.parameters(12.5, continued=False) == {
        "age": 2.5, "time_left": 287.5, "caller": "10.0.0.1" + "x" * 56, "siblings": 3,
    }  # fmt: skip
    placed = replace(standing, order=9.0, caller="").parameters(301.0, continued=True)
    assert placed == {"age": 291.0, "time_left": 0.0, "order": -292.0}


async def test_a_calls_parameters_are_of_the_moment_at_which_it_is_sent() -> None:
    with http_triton() as server:
        triton = Triton(server.url, server.url, 10**6)
        segment = replace(segment_of(PLAIN), standing=Standing(time.monotonic() - 5, time.monotonic() + 60, "me"))
        await triton.run(segment, "e")
        await triton.close()
    (told,) = server.parameters
    assert 5 <= told["age"] < 30
    assert 30 < told["time_left"] <= 60
    assert told["caller"] == "me"


@pytest.mark.parametrize(("word", "told"), [("hd", "high"), ("low", "low"), ("auto", None)])
async def test_a_word_for_quality_goes_with_every_segment(
    triton_server: HttpTriton, triton: Triton, word: str, told: str | None
) -> None:
    segment = segment_of([*PLAIN, ("quality", word)], Settings(quality_presets=True))
    first = await triton.run(segment, "e")
    await triton.run(segment.following(first), "e")
    assert [call.get("quality") for call in triton_server.parameters] == [told, told]


async def test_adapters_go_with_every_segment_and_what_was_told_of_them_goes_back(
    triton_server: HttpTriton, triton: Triton
) -> None:
    segment = segment_of([*PLAIN, ("lora", "ink:0.5")])
    body, headers = answered(**COMMON | {"timings": np.array([b'{"adapters": "abc"}'], np.object_)}, latents=LATENTS)
    first = outcome(body, headers, segment)
    assert (first.adapters, first.timings) == ("abc", {})
    following = segment.following(first)
    for each in (segment, following):
        assert (await tensors(each))["lora"] == ("BYTES", [1, 1], b"\x07\0\0\0ink:0.5")
        await triton.run(each, "e")
    assert [call.get("adapters") for call in triton_server.parameters] == [None, "abc"]


def test_an_adapter_that_the_model_refuses_is_told_by_the_field_that_named_it() -> None:
    job = segment_of([*PLAIN, ("model", "base:ink")], Settings(model_id="base")).job
    error = model_error("invalid: lora: 'ink': no adapter of this server: oil", job.edit.fields)
    assert isinstance(error, InvalidInput)
    assert (error.param, error.message) == ("model", "model: 'ink': no adapter of this server: oil")


@pytest.mark.parametrize(
    ("health", "servers"),
    [(b'{"status": "ok", "servers": 3}', 3), (b'{"status": "ok"}', 1), (b"", 1), (b"[]", 1), (b'{"servers": 0}', 1)],
)
def test_a_balancer_may_count_its_servers(health: bytes, servers: int) -> None:
    assert servers_of(health) == servers


@pytest.mark.parametrize(
    ("health", "names"),
    [
        (b'{"servers": 3, "slots": 2}', ["triton-1", "triton-2"]),
        (b'{"servers": 3}', []),
        (b'{"slots": "x"}', []),
        (b'{"slots": Infinity}', []),
        (b"", []),
    ],
)
def test_a_balancer_may_have_names_for_them(health: bytes, names: list[str]) -> None:
    assert names_of(health) == names


async def test_the_place_that_the_model_tells_is_kept_as_a_moment() -> None:
    told = {**FINISHED_OUTPUTS, "timings": np.array([json.dumps({"order": -2.5}).encode()], np.object_)}
    content, headers = answered(**told)
    found = outcome(content, headers, segment_of(PLAIN))
    assert found.order is not None
    assert -60 < found.order - time.monotonic() <= -2.5
    assert found.timings == {}


async def test_a_picture_larger_than_a_chunk_is_sent_whole() -> None:
    picture = bytes(range(256)) * 3000
    sent = await tensors(segment_of([("prompt", "p"), ("image", upload(picture))]))
    assert list(deserialize_bytes_tensor(sent["image"][2])) == [picture]


async def test_a_continued_segment_brings_what_the_one_before_it_told() -> None:
    latents = np.arange(6, dtype=np.float32).reshape(3, 2)
    first = replace(segment_of(PLAIN), stop=1, preview=True)
    told = Outcome(1, 30, 4.5, first.job.seed, {}, 3.0, False, None, latents, None)
    sent = await tensors(replace(first.following(told), stop=11, preview=False))
    assert sent["latents"] == ("FP32", [1, 3, 2], latents.tobytes())
    assert {name: np.frombuffer(sent[name][2], dtype).tolist() for name, dtype in NUMBERS.items()} == {
        "start_step": [1],
        "stop_step": [11],
        "num_inference_steps": [30],
        "true_cfg_scale": [4.5],
        "seed": [first.job.seed],
    }
    assert "preview" not in sent
    assert (await tensors(first))["preview"][2] == (1024).to_bytes(4, "little")


async def test_the_models_caption_is_the_prompt_of_all_segments_that_follow() -> None:
    first = segment_of([("layers", "2"), ("image", upload(b"x"))])
    latents = np.zeros((3, 2), dtype=np.float32)
    told = [Outcome(step, 30, 4.5, 1, {}, 3.0, False, None, latents, None) for step in (1, 2)]
    second = first.following(replace(told[0], caption="a cat"))
    third = second.following(told[1])
    assert [(await tensors(each))["prompt"][2][4:] for each in (first, second, third)] == [b"", b"a cat", b"a cat"]


async def test_pictures_that_are_named_are_not_sent() -> None:
    picture = bytes(range(256)) * 3000
    segment = replace(
        segment_of([("prompt", "p"), ("image[]", upload(picture)), ("image[]", upload(b"x"))]), named=True
    )
    made = body_of(segment, "request-0")
    assert made.length < 2000
    told = json.loads(made.header)
    assert "image" not in [tensor["name"] for tensor in told["inputs"]]
    assert told["parameters"]["pictures"] == ",".join(hashlib.sha256(data).hexdigest() for data in (picture, b"x"))


PAGE = b"<html><title>503</title>The request failed: no server is available. queue_full: no</html>"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503])
@pytest.mark.parametrize("content", [PAGE, b"", b'{"error": "Stub process is not healthy."}', b"[]", b'{"message": 1}'])
def test_what_is_not_the_models_word_is_an_interruption(status: int, content: bytes) -> None:
    assert isinstance(refusal(status, content, segment_of(PLAIN).job), Interrupted)


@pytest.mark.parametrize(
    ("status", "content", "reached"),
    [
        (500, b'{"error": "Stub process is not healthy."}', True),
        (400, b"", True),
        (502, PAGE, False),
        (503, PAGE, False),
        (503, b'{"error": "draining: the server is stopping"}', False),
    ],
)
def test_a_gateways_answer_and_a_draining_servers_say_that_nobody_took_the_call(
    status: int, content: bytes, reached: bool
) -> None:
    fault = refusal(status, content, segment_of(PLAIN).job)
    assert isinstance(fault, Interrupted)
    assert isinstance(fault, Unreached) != reached


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, 'Failed to increase the shared memory pool size for key "q": No space left on device', TritonFault),
        (500, "Failed to process, message: Stub process 'qwen_image_edit_0_0' is not healthy.", Interrupted),
        (503, "Failed to increase the shared memory pool", Unreached),
        (404, "Request for unknown model: 'qwen_image_edit' is not found", Interrupted),
    ],
)
def test_an_error_of_tritons_own_may_be_the_calls_doing(status: int, message: str, kind: type[Interrupted]) -> None:
    assert type(refusal(status, json.dumps({"error": message}).encode(), segment_of(PLAIN).job)) is kind


def test_the_same_error_of_two_calls_is_told_in_the_same_words() -> None:
    first, second = (
        refusal(500, json.dumps({"error": f"[request id: e-0.{call}] no memory"}).encode(), segment_of(PLAIN).job)
        for call in (1, 2)
    )
    assert str(first) == str(second) == "status 500: no memory"


@pytest.mark.parametrize(
    "message",
    [
        "unexpected inference input 'deadline' for model 'qwen_image_edit'",
        "[request id: e.0] inference input 'seed' data-type is 'INT32', but model 'qwen_image_edit' expects 'INT64'",
        "[request id: e.0] unexpected shape for input 'size' for model 'qwen_image_edit'. Expected [-1,2], got [1,3].",
        "[request id: e.0] expected 2 inputs but got 1 inputs for model 'qwen_image_edit'. Got input(s) ['prompt'], "
        "but missing required input(s) ['image']. Please provide all required input(s).",
    ],
)
def test_inputs_that_the_model_does_not_declare_are_final_and_the_log_names_them(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = refusal(400, json.dumps({"error": message}).encode(), segment_of(PLAIN).job)
    assert isinstance(error, GenerationError)
    assert error.message == "Image generation failed: this server and its model are of different releases"
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert message.removeprefix("[request id: e.0] ")[:100] in line


@pytest.fixture
def triton_server() -> Iterator[HttpTriton]:
    with http_triton() as server:
        yield server


@pytest.fixture
async def triton(triton_server: HttpTriton) -> AsyncIterator[Triton]:
    triton = Triton(triton_server.url, triton_server.url, most_bytes=2**20)
    yield triton
    await triton.close()


@pytest.mark.parametrize("said", ["reset", (502, "answer lost"), (504, "too late")], ids=str)
async def test_a_call_that_broke_off_is_dropped_before_anything_else_is_sent(
    triton: Triton, triton_server: HttpTriton, said: str | tuple[int, str]
) -> None:
    triton_server.script = [said]
    with pytest.raises(Interrupted):
        await triton.run(segment_of(PLAIN), "e")
    assert triton_server.calls == ["e.0", "cancel e.0"]
    assert (await triton.run(segment_of(PLAIN), "e")).steps == 2
    assert triton_server.calls == ["e.0", "cancel e.0", "e.1"]


@pytest.fixture
def silent_host() -> Iterator[str]:
    """The address of one that answers no attempt to connect: its queue is full."""
    with socket.socket() as listening, contextlib.ExitStack() as opened:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_call_that_could_not_connect_in_time_was_not_taken(
    silent_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("shim.running.drops.DROP_SECONDS", 0.2)
    triton = Triton(silent_host, silent_host, 10**6)
    (fault,) = await asyncio.gather(triton.run(segment_of(PLAIN), "e"), return_exceptions=True)
    await triton.close()
    assert isinstance(fault, Unreached), fault


async def test_an_edit_abandoned_in_its_first_segment_is_dropped_by_the_server_that_has_it(
    program: Callable[[str], str],
) -> None:
    """Behind HAProxy, which knows who has an edit from the first segment's answer on."""
    program("haproxy")
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(http_triton()) for _ in range(2)]
        for each in servers:
            each.seconds = 1.0
        proxy = stack.enter_context(balancer(*servers))
        triton = Triton(proxy.url, f"{proxy.url}/healthz", most_bytes=2**20)
        async with asyncio.timeout(10):
            while await triton.servers() < 2:
                await asyncio.sleep(0.02)
            edits = [asyncio.create_task(triton.run(segment_of(PLAIN), f"e{number}")) for number in range(6)]
            while sum(len(each.calls) for each in servers) < len(edits):
                await asyncio.sleep(0.02)
        edits_of = [set(each.calls) for each in servers]
        for edit in edits:
            edit.cancel()
        await asyncio.gather(*edits, return_exceptions=True)
        await triton.close()
    assert all(edits_of), "one server has them all"
    drops = Counter(f"cancel {call}" for calls in edits_of for call in calls)
    assert [Counter(each.calls) - Counter(own) for each, own in zip(servers, edits_of, strict=True)] == [drops, drops]


@pytest.mark.parametrize("said", [None, (503, "nobody"), (500, "failed: x")], ids=str)
async def test_a_call_that_was_answered_is_not_dropped(
    triton: Triton, triton_server: HttpTriton, said: tuple[int, str] | None
) -> None:
    triton_server.script = [said] if said else []
    await asyncio.gather(triton.run(segment_of(PLAIN), "e"), return_exceptions=True)
    assert triton_server.calls == ["e.0"]


@pytest.mark.parametrize(
    ("message", "retry_after"),
    [
        ("queue_full: 8 edits are waiting or running, at most 8 are taken: retry in 17 s", "17"),
        ("queue_full: 8 edits", None),
        ("queue_full: retry in 170 s", None),
    ],
)
def test_a_refusal_tells_when_to_try_again(message: str, retry_after: str | None) -> None:
    error = model_error(message, FIELDS)
    assert isinstance(error, QueueFull)
    assert error.headers.get("retry-after") == retry_after


LATENTS = np.zeros((3, 2), np.float32)
COMMON = {
    "step": np.array([1], np.int32),
    "num_inference_steps": np.array([2], np.int32),
    "true_cfg_scale": np.array([1], np.float32),
    "seed": np.array([7], np.int32),
    "timings": np.array([b"{}"], np.object_),
}


def test_an_answer_is_read() -> None:
    body, headers = answered(**COMMON, latents=LATENTS, preview_image=np.zeros((4, 5, 3), np.uint8))
    answer = outcome(body, headers, segment_of(PLAIN))
    assert (answer.step, answer.steps, answer.true_cfg_scale, answer.seed, answer.timings) == (1, 2, 1.0, 7, {})
    assert answer.quality == ""
    assert answer.image is None
    assert answer.latents is not None
    assert answer.latents.shape == (3, 2)
    assert answer.preview is not None
    assert answer.preview.shape == (4, 5, 3)


def test_the_quality_that_the_model_made_is_no_figure_of_time() -> None:
    body, headers = answered(**COMMON | {"timings": np.array([b'{"quality": "low"}'], np.object_)}, latents=LATENTS)
    answer = outcome(body, headers, segment_of(PLAIN))
    assert (answer.quality, answer.timings) == ("low", {})


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (PAGE, {}),
        (PAGE, {"Inference-Header-Content-Length": "10"}),
        (b"", {"Inference-Header-Content-Length": "x"}),
        answered(**COMMON),
        answered(latents=LATENTS),
        answered(**{**COMMON, "step": np.array([0], np.int32)}, latents=LATENTS),
        answered(**{**COMMON, "step": np.array([2], np.int32)}, latents=LATENTS),
        (answered(**COMMON, latents=LATENTS)[0][:-1], answered(**COMMON, latents=LATENTS)[1]),
    ],
    ids=["no header", "page", "bad header", "no latents", "no step", "no progress", "no image", "cut off"],
)
def test_an_answer_that_is_not_the_models_is_an_interruption(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(Interrupted):
        outcome(body, headers, segment_of(PLAIN))


async def test_a_full_edit_is_sent_as_the_tensor_contract_says() -> None:
    texts = {
        "prompt": "雪",
        "negative_prompt": " ",
        "size": "64x128",
        "steps": "8",
        "cfg": "1.5",
        "seed": str(2**63 - 1),
    }
    pictures = [("image[]", upload(b"first\0")), ("image[]", upload(b"second")), ("mask", upload(b"mask"))]
    sent = await tensors(segment_of([*texts.items(), *pictures]))
    assert {name: tensor[:2] for name, tensor in sent.items()} == {
        "image": ("BYTES", [1, 2]),
        "prompt": ("BYTES", [1, 1]),
        "negative_prompt": ("BYTES", [1, 1]),
        "mask": ("BYTES", [1, 1]),
        "size": ("INT32", [1, 2]),
        "num_inference_steps": ("INT32", [1, 1]),
        "true_cfg_scale": ("FP32", [1, 1]),
        "seed": ("INT64", [1, 1]),
    }
    assert list(deserialize_bytes_tensor(sent["image"][2])) == [b"first\0", b"second"]
    assert list(deserialize_bytes_tensor(sent["prompt"][2])) == ["雪".encode()]
    assert list(deserialize_bytes_tensor(sent["negative_prompt"][2])) == [b" "]
    assert sent["size"][2] == (64).to_bytes(4, "little") + (128).to_bytes(4, "little")
    assert sent["seed"][2] == (2**63 - 1).to_bytes(8, "little")
