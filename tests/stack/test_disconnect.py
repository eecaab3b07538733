"""A client that leaves: the model's own counter tells when its edit ends."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.kit.balancer import balance
from tests.kit.servers import Server, serve_shim

Photo = Callable[[str], bytes]
STEPS = 100
SEGMENT_STEPS = 10
LEAVES_AFTER = 12  # steps
COUNTER = "qwen_edit_steps_total"
EDIT = {"prompt": "make the sky green", "size": "640x640", "num_inference_steps": str(STEPS)}


@pytest.fixture(scope="module")
def shim(stack: Server) -> Iterator[Server]:
    with serve_shim(f"http://{stack.triton_http}", MAX_JOBS_PER_REQUEST="1") as shim:
        yield shim


def begin(
    shim: Server, photo: bytes, headers: dict[str, str] | None = None, /, **fields: str
) -> http.client.HTTPConnection:
    """A connection over which an edit was asked for."""
    url = f"{shim.url}/v1/images/edits"
    request = requests.Request("POST", url, headers, data={**EDIT, **fields}, files={"image": photo}).prepare()
    connection = http.client.HTTPConnection("127.0.0.1", shim.port, timeout=60)
    connection.request("POST", request.path_url, request.body, dict(request.headers))
    return connection


def wait_until_idle(stack: Server, seconds: float = 30.0) -> None:
    """Until the engine has held no job for longer than the shim needs to send the next segment."""
    deadline = time.monotonic() + seconds
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < 0.5:
        if stack.metric("qwen_edit_jobs"):
            idle_since = time.monotonic()
        assert time.monotonic() < deadline, "the engine is still at work"
        time.sleep(0.02)


def abandoned(shim: Server) -> int:
    metrics = requests.get(f"{shim.url}/metrics", timeout=10).text
    (line,) = [line for line in metrics.splitlines() if line.startswith("shim_edits_abandoned_total")]
    return int(float(line.split()[1]))


@pytest.mark.parametrize(
    "fields", [{}, {"stream": "true"}, {"n": "4"}], ids=["plain", "streamed", "with jobs that wait"]
)
def test_the_edit_ends_within_a_segment(stack: Server, shim: Server, photo: Photo, fields: dict[str, str]) -> None:
    counted = abandoned(shim)
    logged = len(shim.log.splitlines())
    before = stack.metric(COUNTER)
    connection = begin(shim, photo("cat"), **fields)
    stack.wait_for(lambda: stack.metric(COUNTER) >= before + LEAVES_AFTER)
    left_after = stack.metric(COUNTER) - before
    connection.close()
    wait_until_idle(stack)
    assert left_after < STEPS / 2
    assert stack.metric(COUNTER) - before <= left_after + SEGMENT_STEPS
    assert abandoned(shim) == counted + 1
    lines = shim.log.splitlines()[logged:]
    assert sum("The client closed the connection; its edit is dropped after" in line for line in lines) == 1


def test_an_edit_with_a_prefix_ends_within_a_segment(stack21: Server, photo: Photo) -> None:
    test_the_edit_ends_within_a_segment(stack21, stack21, photo, {})


def test_a_picture_that_is_taken_apart_is_left_within_a_segment(layered: Server, photo: Photo) -> None:
    fields = {"size": "auto", "resolution": "1024", "layers": "4"}
    test_the_edit_ends_within_a_segment(layered, layered, photo, fields)


def test_one_that_leaves_while_its_edit_waits_frees_its_place_and_costs_nothing(
    stack: Server, shim: Server, photo: Photo
) -> None:
    with serve_shim(f"http://{stack.triton_http}", SEGMENT_STEPS="0") as whole:
        before = stack.metric(COUNTER)
        first = begin(whole, photo("cat"))  # in one piece, so that it is in the engine all the time
        stack.wait_for(lambda: stack.metric(COUNTER) > before)
        cancelled = stack.metric("qwen_edit_edits_total", outcome="cancelled")
        # Two rows with more tokens than MAX_BATCH_TOKENS leaves beside the first: it waits for that.
        second = begin(shim, photo("coffee"), size="1536x1536", true_cfg_scale="4")
        stack.wait_for(lambda: stack.metric("qwen_edit_jobs") == 2)
        second.close()
        stack.wait_for(lambda: stack.metric("qwen_edit_edits_total", outcome="cancelled") == cancelled + 1)
        assert stack.metric("qwen_edit_jobs", state="running") == 1, "the first has ended, and the second had its turn"
        first.close()
        wait_until_idle(stack)
        assert stack.metric(COUNTER) - before < STEPS, "a call in one piece ends between two steps as well"


def test_a_call_that_breaks_off_is_replaced_not_doubled(stack: Server, photo: Photo) -> None:
    with (
        balance(f"http://{stack.triton_http}") as balancer,
        serve_shim(balancer.url, SEGMENT_STEPS="0") as shim,
    ):
        balancer.script = ["lost while at work"]
        before, cancelled = stack.metric(COUNTER), stack.metric("qwen_edit_edits_total", outcome="cancelled")
        connection = begin(shim, photo("cat"))
        stack.wait_for(lambda: stack.metric(COUNTER) > before)
        balancer.lose.set()
        stack.wait_for(lambda: stack.metric("qwen_edit_edits_total", outcome="cancelled") == cancelled + 1)
        stack.wait_for(lambda: balancer.calls == 3)  # the call, its end, and the call again
        stack.wait_for(lambda: stack.metric("qwen_edit_jobs", state="running") == 1)
        assert stack.metric(COUNTER) - before < STEPS, "the first was ended in its midst"
        connection.close()
        wait_until_idle(stack)


def test_a_request_id_that_clients_share_cancels_only_the_edit_that_was_left(
    stack: Server, shim: Server, photo: Photo
) -> None:
    headers = {"x-request-id": "always-the-same"}
    connection = begin(shim, photo("cat"), headers)
    stack.wait_for(lambda: stack.metric("qwen_edit_jobs") == 1)
    connection.close()
    for _ in range(3):
        answer = requests.post(
            f"{shim.url}/v1/images/edits",
            data={"prompt": "x", "size": "64x64"}, files={"image": photo("cat")}, headers=headers, timeout=60,
        )  # fmt: skip
        assert answer.status_code == 200
    wait_until_idle(stack)
