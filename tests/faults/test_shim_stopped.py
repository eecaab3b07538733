"""A shim that is told to stop in the middle of an edit."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests

from tests.kit.servers import Server, serve_shim

pytestmark = pytest.mark.faults

Photo = Callable[[str], bytes]
EDIT = {"prompt": "x", "size": "256x256", "num_inference_steps": "60", "seed": "1"}
LONG = EDIT | {"size": "1024x1024", "num_inference_steps": "100"}  # half a minute


def edit(server: Server, photo: Photo, fields: dict[str, str]) -> requests.Response:
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": photo("cat")}, timeout=120)


def begin(
    pool: ThreadPoolExecutor, shim: Server, stack: Server, photo: Photo, fields: dict[str, str]
) -> Future[requests.Response]:
    before = stack.metric("qwen_edit_steps_total")
    editing = pool.submit(edit, shim, photo, fields)
    stack.wait_for(lambda: stack.metric("qwen_edit_steps_total") > before)
    return editing


def test_it_is_not_ready_at_once_and_the_edit_under_way_is_finished(alone: Server, photo: Photo) -> None:
    with (
        serve_shim(f"http://{alone.triton_http}", DRAIN_SECONDS="60") as shim,
        ThreadPoolExecutor() as pool,
    ):
        editing = begin(pool, shim, alone, photo, EDIT)
        shim.process.send_signal(signal.SIGTERM)
        shim.wait_for(lambda: requests.get(f"{shim.url}/ready", timeout=5).status_code == 503, seconds=2)
        assert not editing.done(), "the edit ended too early"
        assert editing.result().status_code == 200
        assert shim.process.wait(20) == 0


def test_the_limit_ends_even_an_edit_in_words_and_triton_is_told(alone: Server, photo: Photo) -> None:
    cancelled = alone.metric("qwen_edit_edits_total", outcome="cancelled")
    with (
        serve_shim(f"http://{alone.triton_http}", DRAIN_SECONDS="0", SEGMENT_STEPS="0") as shim,
        ThreadPoolExecutor() as pool,
    ):
        editing = begin(pool, shim, alone, photo, LONG)
        shim.process.send_signal(signal.SIGTERM)
        assert shim.process.wait(20) == 0
        answer = editing.result()
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "The server is shutting down")
    assert "retry-after" in answer.headers
    alone.wait_for(lambda: alone.metric("qwen_edit_edits_total", outcome="cancelled") == cancelled + 1)
