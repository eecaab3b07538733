"""The shape of streams, against a Triton that answers as scripted; with the real one see tests/stack."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Never

import pytest
from PIL import Image
from starlette.testclient import TestClient

from shim import event_stream
from shim.app import create_app
from shim.errors import GenerationError, InvalidInput, QueueFull, ShimError
from shim.metrics import Metrics
from shim.running.segments import Outcome, Segment
from shim.settings import Settings
from tests.kit.scripted import STEPS, Call, ScriptedTriton, obey

EDITS = "/v1/images/edits"
FRAME = re.compile(r"event: ([a-z_.]+)\ndata: (\{[^\n]*\})")
COMMENT = re.compile(r": [^\n]*")
COMMON = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format"}


@dataclass
class Stream:
    """A parsed stream: comments in order, and frames as (event, data)."""

    comments: list[str]
    frames: list[tuple[str, dict[str, Any]]]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.frames if event == name]


def parse(text: str) -> Stream:
    """Fails on anything but bare comments and frames of an event and data."""
    *blocks, rest = text.split("\n\n")
    assert rest == "", "the last frame lacks its blank line"
    comments = [block[2:] for block in blocks if COMMENT.fullmatch(block)]
    frames = [match for block in blocks if (match := FRAME.fullmatch(block))]
    assert len(comments) + len(frames) == len(blocks), text[:2000]
    return Stream(comments, [(frame[1], json.loads(frame[2])) for frame in frames])


Edit = Callable[..., Any]


@pytest.fixture
def triton() -> ScriptedTriton:
    return ScriptedTriton()


@pytest.fixture
def client(triton: ScriptedTriton, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("shim.app.Triton", lambda url, health_url, most_bytes: triton)
    with TestClient(create_app(Settings(segment_steps=3, request_timeout_seconds=1.0))) as client:
        yield client


@pytest.fixture
def edit(client: TestClient, png: bytes) -> Edit:
    """Posts a streamed edit with these fields; `files` and `settings` are the only special ones."""

    def edit(name: str = "image", count: int = 1, **fields: str) -> Any:
        files = [(name, png)] * count
        return client.post(EDITS, data={"prompt": "p", "stream": "true", **fields}, files=files)

    return edit


def slowly(seconds: float, then: Call = obey) -> Call:
    async def answer(segment: Segment) -> Outcome:
        await asyncio.sleep(seconds)
        return await then(segment)

    return answer


def failing(error: Exception) -> Call:
    async def fail(segment: Segment) -> Never:
        raise error

    return fail


def test_a_stream_is_partial_images_and_a_completed_one(edit: Edit) -> None:
    response = edit(partial_images="2", steps="9", seed="7")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-request-id"]
    assert "content-length" not in response.headers
    stream = parse(response.text)
    assert stream.comments == ["progress 3/9", "progress 6/9"]
    assert [name for name, _ in stream.frames] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    for index, (name, data) in enumerate(stream.frames[:2]):
        assert set(data) == COMMON | {"partial_image_index"}
        assert (data["type"], data["partial_image_index"]) == (name, index)
    done = stream.frames[-1][1]
    assert set(done) == COMMON | {"usage", "index", "seed"}
    assert (done["type"], done["index"], done["seed"]) == ("image_edit.completed", 0, 7)
    assert (done["size"], done["quality"], done["background"], done["output_format"]) == (
        "6x4",
        "auto",
        "opaque",
        "png",
    )
    assert done["usage"]["total_tokens"] == 21
    assert done["usage"]["input_tokens_details"] == {"text_tokens": 5, "image_tokens": 7}
    assert done["usage"]["output_tokens_details"] == {"text_tokens": 0, "image_tokens": 9}
    assert isinstance(done["created_at"], int)


def test_the_quality_that_was_made_is_told_in_all_events_and_in_a_whole_answer(
    edit: Edit, triton: ScriptedTriton
) -> None:
    async def as_asked(segment: Segment) -> Outcome:
        return replace(await obey(segment), quality="low")

    triton.script = [as_asked] * 4
    stream = parse(edit(partial_images="1").text)
    assert [data["quality"] for _, data in stream.frames] == ["low", "low"]
    triton.script = [as_asked] * 4
    whole = edit(stream="false").json()
    assert (whole["quality"], whole["num_inference_steps"]) == ("low", STEPS)
    assert not {"quality", "num_inference_steps"} & set(edit(stream="false").json())


def test_without_partial_images_there_is_progress_only(edit: Edit) -> None:
    stream = parse(edit().text)
    assert stream.comments == [f"progress {step}/{STEPS}" for step in (1, 4, 7)]
    assert [name for name, _ in stream.frames] == ["image_edit.completed"]


@pytest.mark.parametrize(("name", "count", "outputs"), [("image", 2, 2), ("images", 2, 4)])
def test_several_outputs_are_told_apart(edit: Edit, name: str, count: int, outputs: int) -> None:
    stream = parse(edit(name, count, n="2", partial_images="1").text)
    partials, completed = stream.named("image_edit.partial_image"), stream.named("image_edit.completed")
    assert sorted(data["index"] for data in partials) == list(range(outputs))
    assert {data["partial_image_index"] for data in partials} == {0}
    assert sorted(data["index"] for data in completed) == list(range(outputs))
    assert {data["usage"]["generated_images"] for data in completed} == {1}
    assert {comment.split("/")[1] for comment in stream.comments} == {str(STEPS * outputs)}


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_all_pictures_have_the_format_that_was_asked_for(edit: Edit, output_format: str) -> None:
    stream = parse(edit(partial_images="1", output_format=output_format).text)
    assert len(stream.frames) == 2
    for _, data in stream.frames:
        assert data["output_format"] == output_format
        picture = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
        assert (picture.format or "").lower() == output_format
        assert data["size"] == f"{picture.width}x{picture.height}"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(QueueFull("full"), 429, "QUEUE_FULL"), (InvalidInput("size: no", param="size"), 400, "INVALID_INPUT")],
)
def test_an_early_refusal_is_an_answer_of_its_own(
    edit: Edit, triton: ScriptedTriton, error: ShimError, status: int, code: str
) -> None:
    triton.script = [slowly(0.1, failing(error))]
    response = edit()
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers["x-request-id"]


def test_a_late_refusal_is_an_event(edit: Edit, triton: ScriptedTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "REFUSAL_SECONDS", 0.05)
    triton.script = [slowly(0.2, failing(QueueFull("full")))]
    response = edit()
    assert response.status_code == 200
    stream = parse(response.text)
    assert stream.comments == ["keep-alive"]
    error = {"message": "full", "type": "rate_limit_error", "param": None, "code": "QUEUE_FULL"}
    assert stream.frames == [("error", {"type": "error", "error": error})]


@pytest.mark.parametrize("name", ["image", "images"], ids=["openai", "classic"])
def test_a_failure_mid_stream_is_the_last_event_in_both_dialects(
    edit: Edit, triton: ScriptedTriton, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    triton.script = [obey, failing(GenerationError("Image generation failed: no"))]
    answer = edit(name)
    assert answer.status_code == 200
    stream = parse(answer.text)
    (told,) = stream.named("error")
    assert told["type"] == "error"
    assert told["error"] == {
        "message": "Image generation failed: no", "type": "server_error", "param": None, "code": "GENERATION_ERROR"
    }  # fmt: skip
    assert f"POST {EDITS}: 500 GENERATION_ERROR: Image generation failed: no" in caplog.text


def test_a_stream_is_counted_by_how_it_ended_not_by_how_it_began(
    edit: Edit, client: TestClient, triton: ScriptedTriton
) -> None:
    assert edit().status_code == 200
    triton.script = [obey, failing(GenerationError("no"))]
    assert edit().status_code == 200
    counts = re.findall(r"shim_request_seconds_count\{(.*)\} (.*)", client.get("/metrics").text)
    assert sorted(counts) == [(f'route="{EDITS}",status="{status}",stream="true"', "1.0") for status in (200, 500)]


@pytest.mark.parametrize("stream", ["true", "false"])
def test_an_edit_is_told_to_be_in_flight_while_the_model_works_on_it(
    edit: Edit, client: TestClient, triton: ScriptedTriton, stream: str
) -> None:
    def in_flight() -> float | None:
        metrics: Metrics = client.app_state["services"].metrics
        return metrics.registry.get_sample_value("shim_edits_in_flight")

    async def noting(segment: Segment) -> Outcome:
        told.append(in_flight())
        return await obey(segment)

    told: list[float | None] = []
    triton.script = [noting]
    assert edit(stream=stream).status_code == 200
    assert (told, in_flight()) == ([1.0], 0.0)


def test_a_bug_mid_stream_tells_nothing(edit: Edit, triton: ScriptedTriton, caplog: pytest.LogCaptureFixture) -> None:
    triton.script = [obey, failing(ZeroDivisionError("the secret"))]
    response = edit()
    (told,) = parse(response.text).named("error")
    assert (told["error"]["code"], told["error"]["message"]) == ("INTERNAL_ERROR", "Internal server error")
    assert "secret" not in response.text
    assert "Traceback" in caplog.text


def test_a_stream_ends_at_the_time_limit(edit: Edit, triton: ScriptedTriton) -> None:
    triton.script = [obey, slowly(60)]
    (told,) = parse(edit().text).named("error")
    assert told["error"]["code"] == "GENERATION_TIMEOUT"


def test_a_comment_keeps_a_waiting_line_alive(
    edit: Edit, triton: ScriptedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "REFUSAL_SECONDS", 0.01)
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_SECONDS", 0.1)
    triton.script = [slowly(0.5)]
    stream = parse(edit().text)
    assert stream.comments.count("keep-alive") >= 3
    assert stream.frames[-1][0] == "image_edit.completed"


def test_a_stream_is_logged_and_counted_like_any_edit(edit: Edit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    edit()
    lines = [record.getMessage() for record in caplog.records if record.name == "image_edit_server"]
    assert lines[0] == "Processing image edit request: prompt='p', n=1"
    assert re.fullmatch(r"Image edit completed in \d+\.\d\ds, generated 1 image\(s\)", lines[1])
    assert len(lines) == 2
